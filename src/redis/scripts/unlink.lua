-- Removes a session: the one of the name taken for a session id, else the listed one.
-- Answers: gone, alias, birth | absent | superseded | failed, why

local id, first_ms, retry = args.id, tonumber(args.first_ms), is_retry()

-- The whole answer, or nil if there is nothing of that name to remove.
local function remove(key, name)
  local h = read(key)
  if failure then return answer('failed', failure) end
  if not h then return nil end
  if h.state ~= 'alive' then
    if h.version == id then return answer('gone', name, h.birth) end
    return nil
  end
  if retry and h.saved > first_ms then return answer('superseded') end
  weigh(h, keys.index, name)
  local dead = stale(h)
  if not bury(key, keys.index, name, h, dead and NO_ID or id) then return answer('failed', failure) end
  if dead then
    note_expiry(name, h)
    return nil
  end
  return answer('gone', name, h.birth)
end

local done = remove(keys.session, args.alias)
if done then return done end
if args.listed ~= '' then
  done = remove(keys.listed_session, args.listed)
  if done then return done end
end
return answer('absent')
