-- Removes a session: the one of the name taken for a session id, else the listed one. A removal of
-- the listed one is held if it is the one that the caller opened last; without a time to hold it, it
-- is taken back.
-- Answers: gone, alias, birth | held, alias, birth | absent | superseded | failed, why

local id, first_ms, retry = args.id, tonumber(args.first_ms), is_retry()

-- What is remembered of a session whose header cannot be read: as little as may be assumed.
local function unknown()
  return {
    birth = id, born = now, before = 'auth', removal = '-', ending = 0, mtime = '0', login = now,
    active = now, opened = false, from_file = true, class = 'auth', uid = '-', db = '-',
    user = '-', mode = '644', form = 's', format = WRITTEN,
  }
end

-- Marks it as ending. Where that is refused the save that is to follow cannot be taken either.
-- Answers 'held', 'refused', or 'gone' if it was lost on the way.
local function hold(session, h)
  h.removal, h.ending = id, now + tonumber(args.hold_ms)
  local content = redis.call('GETRANGE', session.key, h.length, -1)
  local marked, ttl = line(h) .. content, keep_ms(h)
  local became = replace(session.key, marked, ttl)
  if became == 'gone' then failure = nil end
  if became ~= 'done' then return became end
  -- The key may be kept for longer than before.
  enter(session, h, ttl)
  failure = nil
  redis.call('STRLEN', session.key) -- for client tracking, as in publish.lua
  return 'held'
end

-- The whole answer, or nil if there is nothing of that name to remove. `held`: the birth that it
-- must be of for its removal to be held. `how`: for the audit trail.
local function remove(session, held, how)
  local h = read(session.key)
  if failure then
    if not is_unreadable() then return answer('failed', failure) end
    -- A removal needs no header.
    failure = nil
    h = unknown()
  elseif not h then
    return nil
  elseif not lives(session, h) then
    if h.version == id then return answer('gone', session.alias, h.birth) end
    return nil
  elseif retry and h.born > first_ms then
    return answer('superseded')
  elseif held == h.birth then
    -- Sent before, and perhaps taken back since.
    local became = h.removal == id and 'held' or hold(session, h)
    if became == 'refused' then return answer('failed', failure) end
    if became == 'held' then return answer('held', session.alias, h.birth) end
  end
  local made = made_ms()
  if not bury(session, h, id, made) then return answer('failed', failure) end
  tell('ended', how, session, h, nil, nil, made)
  return answer('gone', session.alias, h.birth)
end

-- The session lives on, if it is still held by this removal.
local function take_back(key)
  local h = read(key)
  if not h or not h.alive or h.removal ~= id or h.ending == 0 or now >= h.ending + WAITED then return end
  h.ending = 0
  local content = redis.call('GETRANGE', key, h.length, -1)
  -- Lost on the way, it has ended as its removal asked for.
  if replace(key, line(h) .. content, keep_ms(h)) == 'gone' then failure = nil end
  redis.call('STRLEN', key) -- for client tracking, as in publish.lua
end

if args.hold_ms == '0' then
  take_back(keys.session)
  if failure then return answer('failed', failure) end
  return answer('absent')
end

local done = remove({ key = keys.session, alias = args.alias, tail = args.tail }, '', 'logout')
if done then return done end
if args.listed ~= '' then
  local listed = { key = keys.listed_session, alias = args.listed, tail = args.listed_tail }
  done = remove(listed, args.held, 'removed')
  if done then return done end
end
return answer('absent')
