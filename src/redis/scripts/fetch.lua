-- The current version under a name, taken for a session id first, then for an alias.
-- KEYS: the session, its index, the session of the name as an alias (or the first again)
-- ARGV: alias, the name as an alias or ''
-- Answers: session, left, value | alias, left, header | absent | failed, why

-- A living session of that header, or nil; a dead one is ended here.
local function living(key, alias, h)
  if not h or h.state ~= 'alive' then return nil end
  weigh(h, KEYS[2], alias)
  if stale(h) and expire(key, KEYS[2], alias, h) then return nil end
  if not h.indexed then
    -- Refused where no writes are taken: the header's activity goes on standing in.
    enter(KEYS[2], alias, h.active, redis.call('PTTL', key))
    failure = nil
  end
  return h
end

local value = redis.pcall('GET', KEYS[1])
if refused(value) then return answer('failed', failure) end
if value then
  local h = parse(value)
  if failure then return answer('failed', failure) end
  h = living(KEYS[1], ARGV[8], h)
  if h then return answer('session', left(h), value) end
end

if ARGV[9] ~= '' then
  local h = read(KEYS[3])
  if failure then return answer('failed', failure) end
  h = living(KEYS[3], ARGV[9], h)
  if h then return answer('alias', left(h), h.stored) end
end
return answer('absent')
