-- The current version under a name, taken for a session id first, then for an alias.
-- Answers: session, activity, left, value | large, activity, left, header |
--   alias, activity, left, header | absent | another (owner's) | failed, why

-- Whether a session of that header lives; the index may have lost it.
local function found(session, h)
  if not h or not lives(session, h) then return false end
  if not h.indexed then enter_again(session, h) end
  return true
end

-- No answer is longer: others wait behind it. A longer value is read in pieces (piece.lua).
local most = tonumber(args.most)
local value = redis.pcall('GETRANGE', keys.session, 0, most - 1)
if refused(value) then return answer('failed', failure) end
if value ~= '' then
  local h = parse(value)
  if failure then return answer('failed', failure) end
  if is_anothers and is_anothers(h) then return answer('another') end
  if found({ key = keys.session, alias = args.alias, tail = args.tail }, h) then
    if #value == most and redis.call('STRLEN', keys.session) > most then
      return answer('large', h.active, left(h), h.stored)
    end
    return answer('session', h.active, left(h), value)
  end
end

if args.listed ~= '' then
  local h = read(keys.listed_session)
  if failure then return answer('failed', failure) end
  if h and is_anothers and is_anothers(h) then return answer('another') end
  if found({ key = keys.listed_session, alias = args.listed, tail = args.listed_tail }, h) then
    return answer('alias', h.active, left(h), h.stored)
  end
end
return answer('absent')
