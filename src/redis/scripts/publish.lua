-- Makes a save the current version, by the rules of births: nothing that ended is revived.
-- Answers: taken, activity, left, header | superseded, birth or '' | refused, code | rebind, birth |
-- failed, why

local id, first_ms, retry = args.id, tonumber(args.first_ms), is_retry()
local session = { key = keys.session, alias = args.alias, tail = args.tail }
local class, uid, opened = args.class, args.uid, args.opened
local background, is_activity = args.background == '1', args.is_activity == '1'
local after_failed_read, held = args.after_failed_read == '1', args.held_removal
-- For how long after its end a removal that was held may still be taken back.
local TAKEN_BACK_WITHIN_MS = 9000

local old = read(keys.session)
if failure then return answer('failed', failure) end
-- Another session of the family, if one is known. It is read before anything is written.
local relative
if args.sibling ~= '' then
  relative = read(keys.sibling_session)
  if failure == OTHER_INDEX then return answer('failed', failure) end
  failure = nil -- one that cannot be read is none
end
if not are_indexes_named(format_for(args.packing)) then return answer('failed', OTHER_INDEX) end

-- Whether `h` is what is left of the life whose removal this thread may take back.
local function is_held_one(h)
  return held ~= '' and h.version == held and h.ending > 0
    and now - h.ending < TAKEN_BACK_WITHIN_MS
end

-- Refuses this save, and says so: of whose session it is, or of whose it would have destroyed.
local function refuse(why)
  local identity = class == 'auth' and { class = class, uid = uid, db = args.db, user = args.user } or old
  if identity then
    tell('refused', why, session, {
      class = identity.class, birth = id, uid = identity.uid, db = identity.db, user = identity.user,
      login = now, active = now,
    })
  end
  return answer('refused', why)
end

local alive, takes_back = false, false
if old then
  if old.alive and old.save == id then
    weigh(session, old)
    return answer('taken', old.active, left(old), old.stored)
  end
  -- Where the server takes no writes, this save will find that out itself.
  alive = lives(session, old)
  -- It ended by this thread's own removal, and nothing came between.
  takes_back = not alive and is_held_one(old)
  if retry and old.saved > first_ms and not takes_back then
    -- Whoever made this save without knowing of a life belongs to that of the newer one.
    local belongs = alive and opened == '' and old.class == class
    return answer('superseded', belongs and old.birth or '')
  end
end

-- Whether this save continues the life of `old`; otherwise a new one begins.
local goes_on = false
-- The session that a soft rotation comes from: the same person under another id of the family.
local sibling
if class == 'anon' then
  if alive and old.class == 'auth' then
    if after_failed_read then return refuse('unread') end
    -- No person logs out there; it is the save of a request that has found nothing to load.
    if background then return refuse('background') end
  end
  -- Over an authenticated session it is a logout in place: a new life.
  goes_on = alive and old.class == 'anon'
else
  if alive and opened ~= '' and opened ~= old.birth then return refuse('replaced') end
  goes_on = alive or (takes_back and (opened == '' or opened == old.birth))
  if goes_on and old.class == 'anon' then
    -- Odoo gives a new id at each login, so this content was loaded before the logout.
    if old.before == 'auth' then return refuse('logged_out') end
    if background then return refuse('background') end
  end
  if not goes_on then
    if old or opened ~= '' then return refuse('ended') end
    if relative and relative.class == 'auth' and relative.uid == uid and uid ~= '-' then sibling = relative end
    local rotates = sibling
      and lives({ key = keys.sibling_session, alias = args.sibling, tail = args.sibling_tail }, sibling)
    -- Nobody logs in there; a session may only be rotated.
    if background and not rotates then return refuse('background') end
  end
end

local made = made_ms()
local h = {
  alive = true, version = id, save = id, saved = made, mtime = string.format('%d000000', made),
  class = class, uid = uid, db = args.db, user = args.user, size = args.size,
  packing = args.packing, form = args.form, mode = alive and old.mode or '644',
  from_file = old and old.from_file or false,
  birth = id, born = made, before = '-', removal = '-', ending = 0,
  login = now, active = now, opened = false, format = format_for(args.packing),
}
if goes_on then
  h.birth, h.born, h.before = old.birth, old.born, old.before
  h.opened = old.opened or opened == old.birth
  -- A login inside one life starts the clock of the absolute lifetime; later saves keep it.
  if old.class == class then h.login = old.login end
  if not is_activity or (alive and over(old)) then h.active = old.active end
  h.removal, h.ending = old.removal, old.ending
  -- Another thread's removal stays. A removal that has not arrived yet is noted: it is late.
  if held ~= '' and (h.removal == held or h.ending == 0) then h.removal, h.ending = held, 0 end
else
  if old then
    h.before = (old.class == 'auth' or old.before == 'auth') and 'auth' or 'anon'
  end
  if sibling then
    h.login = sibling.login
    if not is_activity then h.active = sibling.active end
  end
end

h.ends = ends(h, 0)
if stale(h) then return refuse('lifetime') end
if args.birth ~= h.birth then return answer('rebind', h.birth) end

local ttl = keep_ms(h)
local header = line(h)
local bytes = header .. args.sealed
if goes_on and old.ending > 0 and h.ending == 0 then
  -- What was refused now would end with the removal that it takes back.
  if replace(keys.session, bytes, ttl) ~= 'done' then return answer('failed', failure) end
elseif refused(redis.pcall('SET', keys.session, bytes, 'PX', ttl)) then
  return answer('failed', failure)
end
move(session, alive and old or nil, h, ttl)
-- A logout in place ends the life that was there.
if alive and not goes_on then tell('ended', 'logout', session, old) end
if not (alive and goes_on and old.class == class) then
  local how = goes_on and not alive and 'taken_back' or sibling and 'rotation' or 'login'
  tell('began', how, session, h, sibling and args.sibling)
elseif class == 'auth' and (uid ~= old.uid or args.db ~= old.db or args.user ~= old.user) then
  -- Odoo's /web/become does that, and modules with which one takes another's place.
  tell('became', '-', session, h, nil, old)
end
-- Client tracking reports the next change only to a client that has read after its own.
redis.call('STRLEN', keys.session)
return answer('taken', h.active, left(h), header)
