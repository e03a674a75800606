-- Removes a session: the one of the name taken for a session id, else the listed one.
-- KEYS: the session, its index, the session of the name as an alias (or the first again)
-- ARGV: see the names below
-- Answers: gone, alias, birth | absent | superseded | failed, why

local alias, id, first_ms, retry = ARGV[8], ARGV[9], tonumber(ARGV[10]), is_retry()
local listed = ARGV[12] -- '' for none

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
  weigh(h, KEYS[2], name)
  local dead = stale(h)
  if not bury(key, KEYS[2], name, h, dead and NO_ID or id) then return answer('failed', failure) end
  if dead then
    note_expiry(name, h)
    return nil
  end
  return answer('gone', name, h.birth)
end

local done = remove(KEYS[1], alias)
if done then return done end
if listed ~= '' then
  done = remove(KEYS[3], listed)
  if done then return done end
end
return answer('absent')
