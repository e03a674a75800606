-- What all scripts share: the header line of a session, when it ends, how it is ended. Each rule is
-- here once. Nothing here decides what an operation does. `keys` and `args` hold what the script
-- is called with, by the names of args.rs. A session is `{key, alias, tail}`: its key, its name, and
-- what its entry in a short index ends with; `h` is its header.
--
-- Writes that the server may refuse (READONLY, OOM, MISCONF, NOREPLICAS) go through pcall, so that
-- the same script still reads on a server that takes no writes.

local POLICY = {
  idle = tonumber(args.idle_ms),
  anonymous_idle = tonumber(args.anonymous_idle_ms),
  unopened = tonumber(args.anonymous_unopened_ms),
  absolute = tonumber(args.absolute_ms), -- negative: none
  grace = tonumber(args.grace_ms),
  tombstone = math.max(1, tonumber(args.tombstone_ms)),
  import_max_age = tonumber(args.import_max_age_ms),
}
-- Literals: an expression would be worked out anew in every call.
local NO_ID = '00000000000000000000000000000000'
-- The formats that are read, of which this one is written (envelope.rs knows the oldest, too).
local OLDEST, NEWEST, WRITTEN = 2, tonumber(args.newest_format), tonumber(args.written_format)
-- From this one on header and entry are short, and a content may be packed (envelope.rs holds the same number).
local COMPACT = 3
-- Longer than any header line (envelope.rs holds the same number).
local HEADER_BYTES = 1536
-- state version save birth born before removal ending saved mtime login active opened from_file class
-- uid db user size packing mode form: envelope.rs says what each is.
local HEADER = '^sessionfs (%d+) s=([ag]) v=(%x+) w=(%-?%x*) b=(%x+) n=(%d+) p=(%-?%a*) r=(%-?%x*) e=(%d+) t=(%d+) m=(%-?%d+) l=(%d+) a=(%d+) o=([01]) f=([01]) c=(%a+) i=(%-?%d*) d=([!-~]*) u=([!-~]*) z=(%d+) k=(%d+) x=([0-7]+) y=([sf])([ -~]*)\n()'
local LINE = 'sessionfs %d s=%s v=%s w=%s b=%s n=%d p=%s r=%s e=%d t=%d m=%s l=%d a=%d o=%s f=%s c=%s i=%s d=%s u=%s z=%s k=%s x=%s y=%s\n'
-- The same in the short form: no names, nothing that another field says, times as distances.
local COMPACT_HEADER = '^sessionfs (%d+) ([ag]) (%x+) (%-?%x*) (%-?%x*) (%d+) (%-?%a*) (%-?%x*) (%d+) (%-?%d+) ([-+]?%d*) (%-?%d+) (%-?%d+) ([01]) ([01]) (%a) (%-?%d*) ([!-~]*) ([!-~]*) (%d+) (%d+) ([0-7]+) ([sf])([ -~]*)\n()'
local COMPACT_LINE = 'sessionfs %d %s %s %s %s %d %s %s %d %d %s %d %d %s %s %s %s %s %s %s %s %s %s\n'
-- What fills up an id that is short.
local ZEROS = '0000000000000000'
local CLASS = { u = 'auth', v = 'anon', ['-'] = '-' }
local SHORT_CLASS = { auth = 'u', anon = 'v', ['-'] = '-' }

local now = now_ms()
-- While Redis's clock has just jumped nothing is judged stale. The server says so, or which time it
-- expects (clock.rs has the same bound), so that even the first call after a jump ends nothing. A
-- call that was on its way for long looks the same from here: it ends nothing, and prolongs nothing
-- that is over. The server, which knows how long that was, tells the two apart for the next calls.
local LENIENT = args.clock == 'lenient'
-- For how long those who ask, and the save that may take a held removal back, have waited in an
-- outage: it does not count.
local WAITED = tonumber(args.waited_ms)
-- How long ago the clock has jumped, if not longer than the longest idle time.
local JUMPED_MS
if args.clock ~= '' and not LENIENT then
  local expected = tonumber(args.clock)
  if expected then LENIENT = math.abs(now - expected) > 2000 else JUMPED_MS = tonumber(string.sub(args.clock, 8)) end
end
-- The sessions that this call has ended: {alias, limit}; by a removal that was held: {alias}; and what the outbox has not taken: {'', event}.
local expired = {}
-- Why something could not be read or written; the operation then answers `failed`.
local failure
-- The same where an index was not named that a session is in: nothing is written then, and all are named.
local OTHER_INDEX = 'OTHERINDEX'

-- Every answer has this shape.
local function answer(status, ...)
  return { now, status, expired, ... }
end

local function refused(reply)
  if type(reply) == 'table' and reply.err then
    failure = reply.err
    return true
  end
  return false
end

-- Whether decimal digits, perhaps with a minus, are within 64 bits. Numbers of Lua are not exact
-- enough.
local function fits_64_bits(text)
  -- All that are written, so that no other is looked at closely.
  if #text < 19 or (#text == 19 and text < '9223372036854775807') then return true end
  local minus, digits = string.match(text, '^(%-?)0*(%d-)$')
  if not digits then return false end
  local most = minus == '-' and '9223372036854775808' or '9223372036854775807'
  return #digits < #most or (#digits == #most and digits <= most)
end

-- Whether every % begins two hex digits.
local function is_encoded(text)
  return not string.find(text, '%', 1, true)
    or not string.find(string.gsub(text, '%%%x%x', ''), '%', 1, true)
end

local function is_class(text)
  return text == 'auth' or text == 'anon'
end

local function is_id(text)
  return #text == 32 and string.byte(text) ~= 45 -- a minus
end

-- What the patterns alone do not see (envelope.rs has the same rules). `counts` are digits yet;
-- `rest`: fields of a later version.
local function is_valid(h, counts, rest)
  for i = 1, #counts do
    if #counts[i] > 15 then return false end
  end
  return is_class(h.class) and (h.before == '-' or is_class(h.before))
    and #h.version == 32 and #h.birth == 32 and (h.save == '-' or is_id(h.save))
    and (h.removal == '-' or is_id(h.removal))
    and tonumber(h.mode, 8) <= 4095 and tonumber(h.packing) <= 65535 and fits_64_bits(h.mtime)
    and h.uid ~= '' and fits_64_bits(h.uid)
    and is_encoded(h.db) and is_encoded(h.user) and (rest == '' or string.byte(rest) == 32)
    and h.length <= HEADER_BYTES
end

-- Whether it is a format that is read, written as one writes a number.
local function is_read(format)
  local number = #format <= 9 and tonumber(format)
  return number and number >= OLDEST and number <= NEWEST and tostring(number) == format
end

local function why_unreadable(bytes)
  local format = string.match(bytes, '^sessionfs (%d+) ')
  if not format then return 'not a session of sessionfs' end
  if is_read(format) then return 'its header is not one of format ' .. format end
  return 'format ' .. string.sub(format, 1, 9) .. ' is not supported by this version, which reads formats '
    .. OLDEST .. ' to ' .. NEWEST
end

-- A time by its distance from another one; nil if it is none.
local function since(from, distance)
  if #distance > 15 and (#distance > 16 or string.byte(distance) ~= 45) then return nil end
  local at = from + tonumber(distance)
  return at >= 0 and at < 1e15 and at or nil
end

-- Where the content of a header begins, if it is one.
local function place(h, bytes, content)
  h.length = content - 1
  h.stored = string.sub(bytes, 1, h.length)
end

-- Reads the form with names; nil if it is none.
local function parse_named(bytes)
  local h = {}
  local format, born, ending, saved, login, active, opened, from_file, rest, content
  format, h.state, h.version, h.save, h.birth, born, h.before, h.removal, ending, saved, h.mtime, login,
    active, opened, from_file, h.class, h.uid, h.db, h.user, h.size, h.packing, h.mode, h.form,
    rest, content = string.match(bytes, HEADER)
  if not h.state then return nil end
  place(h, bytes, content)
  if not is_read(format) or not is_valid(h, { born, ending, saved, login, active, h.size }, rest) then return nil end
  h.format, h.born, h.ending, h.saved = tonumber(format), tonumber(born), tonumber(ending), tonumber(saved)
  h.login, h.active = tonumber(login), tonumber(active)
  h.opened, h.from_file = opened == '1', from_file == '1'
  return h
end

-- An id that may be short, or '-'.
local function whole_id(id)
  if #id == 16 and string.byte(id) ~= 45 then return ZEROS .. id end
  return id
end

-- A time of a file that is written by its distance from the save: '-' is none, '+' and six digits are nanoseconds. Nil if
-- it is no time.
local function whole_mtime(saved, mtime)
  if mtime == '-' then return string.format('%d000000', saved) end
  if string.byte(mtime) == 43 then return #mtime == 7 and string.format('%d', saved) .. string.sub(mtime, 2) or nil end
  return mtime ~= '' and mtime or nil
end

local function short_mtime(saved, mtime)
  local ms = string.format('%d', saved)
  if #mtime ~= #ms + 6 or string.sub(mtime, 1, #ms) ~= ms then return mtime end
  local ns = string.sub(mtime, -6)
  return ns == '000000' and '-' or '+' .. ns
end

-- Reads the short form; nil if it is none.
local function parse_compact(bytes)
  local h = {}
  local format, version, save, birth, born, before, removal, ending, saved, mtime, login, active, opened,
    from_file, class, rest, content
  format, h.state, version, save, birth, born, before, removal, ending, saved, mtime, login, active, opened,
    from_file, class, h.uid, h.db, h.user, h.size, h.packing, h.mode, h.form,
    rest, content = string.match(bytes, COMPACT_HEADER)
  if not h.state then return nil end
  place(h, bytes, content)
  h.version, h.save, h.birth, h.removal = whole_id(version), whole_id(save), whole_id(birth), whole_id(removal)
  if h.birth == '-' then h.birth = h.version elseif not is_id(h.birth) then return nil end
  if #born > 15 then return nil end
  h.born, h.ending = tonumber(born), tonumber(ending)
  h.saved = since(h.born, saved)
  h.login = since(h.born, login)
  h.active = h.saved and since(h.saved, active)
  if not h.login or not h.active then return nil end
  h.mtime = whole_mtime(h.saved, mtime)
  if not h.mtime then return nil end
  h.class, h.before = CLASS[class] or '', CLASS[before] or ''
  if not is_read(format) or not is_valid(h, { ending, h.size }, rest) then return nil end
  h.format = tonumber(format)
  h.opened, h.from_file = opened == '1', from_file == '1'
  return h
end

-- Whether the indexes of that format are named: a script must name its keys before it knows the headers. What has to
-- be known before the first write is asked here.
local function are_indexes_named(format)
  if args.indexes == 'long' then return format < COMPACT end
  return args.indexes ~= 'short' or format >= COMPACT
end

-- The header of `bytes`, with `length` telling where the content begins and `stored` the line.
local function parse(bytes)
  local h
  if string.sub(bytes, 1, 12) == 'sessionfs 2 ' then h = parse_named(bytes) else h = parse_compact(bytes) end
  if not h then
    failure = 'UNREADABLE ' .. why_unreadable(bytes)
    return nil
  end
  h.alive = h.state == 'a'
  if h.save == '-' then h.save = h.version end
  if h.alive and not are_indexes_named(h.format) then
    failure = OTHER_INDEX
    return nil
  end
  return h
end

-- The format of what is written anew. Who cannot unpack a content must not take its header for one
-- that it reads.
local function format_for(packing)
  return packing == '0' and WRITTEN or math.max(WRITTEN, COMPACT)
end

local function short_id(id)
  return string.sub(id, 1, 16) == ZEROS and string.sub(id, 17) or id
end

local function line(h)
  local state, opened, from_file = h.alive and 'a' or 'g', h.opened and '1' or '0', h.from_file and '1' or '0'
  local save = h.save == h.version and '-' or h.save
  if h.format < COMPACT then
    return string.format(LINE,
      h.format, state, h.version, save, h.birth, h.born, h.before, h.removal, h.ending, h.saved, h.mtime,
      h.login, h.active, opened, from_file, h.class, h.uid, h.db, h.user, h.size, h.packing, h.mode, h.form)
  end
  return string.format(COMPACT_LINE,
    h.format, state, short_id(h.version), short_id(save), h.birth == h.version and '-' or short_id(h.birth),
    h.born, SHORT_CLASS[h.before], short_id(h.removal), h.ending, h.saved - h.born,
    short_mtime(h.saved, h.mtime), h.login - h.born, h.active - h.saved,
    opened, from_file, SHORT_CLASS[h.class], h.uid, h.db, h.user, h.size, h.packing, h.mode, h.form)
end

-- The header kept at `key`; nil if there is none, or if it cannot be read (then `failure` is set).
local function read(key)
  local bytes = redis.pcall('GETRANGE', key, 0, HEADER_BYTES - 1)
  if refused(bytes) or bytes == '' then return nil end
  return parse(bytes)
end

-- Whether `failure` says that something is there that is no session which this version can read.
local function is_unreadable()
  return string.match(failure, '^UNREADABLE ') or string.match(failure, '^WRONGTYPE ')
end

-- What limits its life. It is worked out once: who it belongs to does not change.
local function limits(h)
  if not limits_by_rules then return POLICY end
  if not h.limits then h.limits = limits_by_rules(h, POLICY) end
  return h.limits
end

-- How long without activity ends it, and what that limit is called.
local function idle_limit(h)
  local by = limits(h)
  if h.class == 'auth' then return by.idle, 'idle' end
  if not h.opened and by.unopened < by.anonymous_idle then
    return by.unopened, 'unopened'
  end
  return by.anonymous_idle, 'idle'
end

-- The first millisecond in which it is dead, were its last activity `later` ms younger, and the
-- limit that ends it (session/policy.rs holds the same rule).
local function ends(h, later)
  local idle, limit = idle_limit(h)
  local at, absolute = h.active + later + idle, limits(h).absolute
  if h.class == 'auth' and absolute >= 0 and h.login + absolute < at then
    return h.login + absolute, 'absolute'
  end
  return at, limit
end

-- A number below 251 by which sessions of one user are found (index.rs has the same).
local function mark(text)
  local sum = 0
  for i = 1, #text do sum = (sum * 31 + string.byte(text, i)) % 251 end
  return sum
end

-- The short index of that tail.
local function quarter(tail)
  local byte = string.byte(tail, 2)
  if byte < 64 then return keys.quarter_0 end
  if byte < 128 then return keys.quarter_1 end
  if byte < 192 then return keys.quarter_2 end
  return keys.quarter_3
end

-- The index that a session of this header is in, and by which member. They are worked out once.
local function entry(session, h)
  if not h.member then
    if h.format < COMPACT then
      h.index, h.member = keys.index, session.alias
    else
      local marks = string.char(mark(h.uid) % 128 * 2 + (h.form == 'f' and 1 or 0), mark(h.user))
      h.index, h.member = quarter(session.tail), marks .. session.tail
    end
  end
  return h.index, h.member
end

-- Adds what the index knows. A missing entry is no staleness, nor is an index that is none: the
-- header's activity stands in.
local function weigh(session, h)
  local reply = redis.pcall('ZSCORE', entry(session, h))
  local score = type(reply) == 'string' and tonumber(reply) or nil
  -- One with more digits than a time has is not ours.
  h.indexed = score ~= nil and score < 1e15
  if h.indexed and score > h.active then
    h.active = score
    h.opened = true
  end
  h.ends, h.limit = ends(h, 0)
end

-- What it has to live if nobody uses it, nor takes back a removal that is held.
local function left(h)
  local at = h.ending > 0 and math.min(h.ends, h.ending) or h.ends
  return math.max(0, at - now)
end

-- Whether the clock has jumped less than its idle time ago: its last use may be from before that.
local function is_jumped_over(h)
  return JUMPED_MS and JUMPED_MS < (h.class == 'auth' and idle_limit(h) or POLICY.idle)
end

-- Whether it is over, also where nothing is judged stale: then its life is not prolonged. What a
-- jump of the clock has taken from it does not count, nor does the time of an outage in which its use
-- could not be written down.
local function over(h)
  local beyond = math.max(tonumber(args.unwritten_ms), WAITED)
  if is_jumped_over(h) then beyond = math.max(beyond, tonumber(args.ahead_ms)) end
  return now >= h.ends + beyond
end

local function stale(h)
  return not LENIENT and not is_jumped_over(h) and over(h)
end

-- How long the end of a session is remembered: for as long as it might be imported again.
local function tombstone_ms(h)
  if h.from_file then return math.max(POLICY.tombstone, POLICY.import_max_age) end
  return POLICY.tombstone
end

-- How long the key is kept: the life left, up to half an idle time more (so that touches move it
-- only a handful of times an hour), and the grace in which the dead one can be recognised. After a
-- removal that is held it is its own tombstone.
local function keep_ms(h)
  if h.ending > 0 then return math.max(1, h.ending - now) + tombstone_ms(h) end
  local idle = idle_limit(h)
  local at = ends(h, math.floor(idle / 2))
  local grace = h.from_file and math.max(POLICY.grace, POLICY.import_max_age) or POLICY.grace
  return math.max(1, at - now + grace)
end

-- Whether this change may have been sent before. A first sending says for how many ms its sender
-- waits; what comes later than that was stuck on its way, on a connection already given up, and the
-- sender has gone on without it.
local function is_retry()
  local waits_ms = tonumber(args.waits_ms)
  return not waits_ms or now - tonumber(args.first_ms) > waits_ms
end

-- When this change was made. Sent once more it is no newer than at first, so that what was made after
-- it, and is sent once more after it, does not find itself overtaken.
local function made_ms()
  if is_retry() then return math.min(tonumber(args.first_ms), now) end
  return now
end

-- What stays of a session that is gone since then: the header alone. `id` names the unlink.
local function tombstone(h, id, since)
  return line({
    alive = false, version = id, save = id, birth = h.birth, born = h.born, before = h.before,
    removal = h.removal, ending = h.ending, saved = since, mtime = h.mtime, login = h.login,
    active = h.active, opened = h.opened, from_file = h.from_file, class = h.class, uid = h.uid,
    db = h.db, user = h.user, size = '0', packing = '0', mode = h.mode, form = h.form,
    format = WRITTEN,
  })
end

-- The outbox of the audit trail (outbox.rs): a sorted set of what has happened, by time. It is no KEY: while a slot of a
-- Cluster is moved, no script is run that is given a key which is not there. (Whoever is led to a server that is just being
-- given the slot asks for it in the answer.) What does not fit is counted, by a member of its own with a negative score. It
-- has no time to live: an eviction would take it first, and nobody would know.
local OUTBOX_MOST = 50000
local LEFT_OUT = '-'
-- In the place of an outbox: nothing is to be written.
local IN_ANSWER = '-'

-- Says what has happened to the session of somebody who is logged in: `what`, and `how`. The same step that does it
-- says it, so that it is said once, whoever asks again. `other`: the session that it comes from. `was`: whose it was until
-- now. `made`: when it was asked for, if not now: the ages are those of that moment. Where the outbox cannot be had, the
-- answer carries it.
local function tell(what, how, session, h, other, was, made)
  if h.class ~= 'auth' or args.outbox == '' then return end
  local outbox = args.outbox
  if string.byte(outbox, -1) == 58 then outbox = outbox .. '{' .. string.sub(session.alias, 1, 2) .. '}' end
  local at = made or now
  local ages = string.format('%d %d', math.max(0, at - h.login), math.max(0, at - h.active))
  local event = table.concat({
    what, how, h.birth, session.alias, other or '-', h.uid, h.db, h.user, ages, args.origin,
  }, ' ')
  if was then event = table.concat({ event, was.uid, was.db, was.user }, ' ') end
  local size, told = args.outbox ~= IN_ANSWER and redis.pcall('ZCARD', outbox), nil
  if type(size) == 'number' and size >= OUTBOX_MOST then
    told = redis.pcall('ZADD', outbox, 'INCR', -1, LEFT_OUT)
  elseif size then
    told = redis.pcall('ZADD', outbox, 'NX', now, event)
  end
  if not told or (type(told) == 'table' and told.err) then expired[#expired + 1] = { '', event } end
end

-- Takes a session out of the index.
local function leave(session, h)
  redis.pcall('ZREM', entry(session, h))
end

-- Ends a stale session. False if the server takes no writes: touches could not be kept there
-- either, so it counts as alive. The SET is the question: it is refused wherever a touch is.
local function expire(session, h)
  local before = failure
  if refused(redis.pcall('SET', session.key, tombstone(h, NO_ID, now), 'PX', tombstone_ms(h))) then
    failure = before
    return false
  end
  leave(session, h)
  expired[#expired + 1] = { session.alias, h.limit }
  tell('ended', h.limit, session, h)
  return true
end

-- Removes a session. It deletes before it writes: a server out of memory takes a DEL, and then
-- mostly the tombstone too; without one the removal still counts. False if it takes no writes. It was
-- made at `made`, if not now.
local function bury(session, h, id, made)
  if refused(redis.pcall('DEL', session.key)) then return false end
  leave(session, h)
  redis.pcall('SET', session.key, tombstone(h, id, made or now), 'PX', tombstone_ms(h))
  return true
end

-- Writes another content or header of a living session. A server out of memory takes that after a DEL, as in bury; any
-- other that refuses it keeps the session as it is. Answers 'done', 'refused', or 'gone' if it was lost on the way.
local function replace(key, bytes, ttl)
  if not refused(redis.pcall('SET', key, bytes, 'PX', ttl)) then return 'done' end
  if not string.find(failure, 'OOM ', 1, true) or refused(redis.pcall('DEL', key)) then
    return 'refused'
  end
  failure = nil
  return refused(redis.pcall('SET', key, bytes, 'PX', ttl)) and 'gone' or 'done'
end

-- Whether a session lives. Here it ends if its time is over; `h` is its tombstone then, but for the
-- time of an expiry, which overtakes no save that is under way.
local function lives(session, h)
  if not h.alive then return false end
  weigh(session, h)
  if h.ending > 0 and now >= h.ending + WAITED then
    -- No save has taken the removal back. Somebody asked for it, so it is carried out whatever the
    -- clock is held to be, and holds where it cannot be written down. It ended then, not now: what is
    -- older than that stays so, whether anybody has looked meanwhile or not.
    local before = failure
    if bury(session, h, h.removal, h.ending) then tell('ended', 'removed', session, h, nil, nil, h.ending) end
    expired[#expired + 1] = { session.alias }
    failure = before
    h.alive, h.version, h.saved = false, h.removal, h.ending
  elseif stale(h) and expire(session, h) then
    h.alive, h.version = false, NO_ID
  end
  return h.alive
end

-- Puts a living session into the index, which must outlive its longest member (`ttl` ms). It is given more than that, so
-- that this is not written with each save.
local function enter(session, h, ttl)
  local index, member = entry(session, h)
  if refused(redis.pcall('ZADD', index, h.active, member)) then return false end
  if redis.call('PTTL', index) < ttl then redis.call('PEXPIRE', index, ttl + math.floor(ttl / 8)) end
  return true
end

-- The same of one that the index has lost. False where no writes are taken: the header's activity still stands in.
local function enter_again(session, h)
  local is_in = enter(session, h, redis.call('PTTL', session.key))
  failure = nil
  return is_in
end

-- Puts what a session has become into the index, in the place of what it was.
local function move(session, was, h, ttl)
  local is_in = enter(session, h, ttl)
  if was and is_in then
    local index, member = entry(session, was)
    if index ~= h.index or member ~= h.member then redis.pcall('ZREM', index, member) end
  end
  return is_in
end
