-- The current version under a name, taken for a session id first, then for an alias.
-- Answers: session, left, value | alias, left, header | absent | failed, why

-- A living session of that header, or nil; a dead one is ended here.
local function living(key, alias, h)
  if not h or h.state ~= 'alive' then return nil end
  weigh(h, keys.index, alias)
  if stale(h) and expire(key, keys.index, alias, h) then return nil end
  if not h.indexed then
    -- Refused where no writes are taken: the header's activity still stands in.
    enter(keys.index, alias, h.active, redis.call('PTTL', key))
    failure = nil
  end
  return h
end

local value = redis.pcall('GET', keys.session)
if refused(value) then return answer('failed', failure) end
if value then
  local h = parse(value)
  if failure then return answer('failed', failure) end
  h = living(keys.session, args.alias, h)
  if h then return answer('session', left(h), value) end
end

if args.listed ~= '' then
  local h = read(keys.listed_session)
  if failure then return answer('failed', failure) end
  h = living(keys.listed_session, args.listed, h)
  if h then return answer('alias', left(h), h.stored) end
end
return answer('absent')
