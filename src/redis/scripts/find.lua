-- The entries of a shard that may be those of a user, or have a flat name. The long index knows no marks: of that, all
-- names, or those that are short enough to be flat. Large indexes are not gone through: nobody is served meanwhile.
-- Answers: found, {entry of a short index, ...}, {name of the long one, ...} | large

local most, long = tonumber(args.most), tonumber(args.long)
local user, login, flat = tonumber(args.user), tonumber(args.login), args.flat == '1'
local indexes = { keys.quarter_0, keys.quarter_1, keys.quarter_2, keys.quarter_3, keys.index }
local all = 0
for i = 1, #indexes do all = all + redis.call('ZCARD', indexes[i]) end
if all > most then return answer('large') end

local entries, names = {}, {}
for i = 1, #indexes do
  local members = redis.call('ZRANGEBYSCORE', indexes[i], '-inf', '+inf')
  for j = 1, #members do
    local member = members[j]
    local first, second = string.byte(member, 1, 2)
    if indexes[i] == keys.index then
      if not flat or #member < long then names[#names + 1] = member end
    elseif second and (not user or math.floor(first / 2) == user) and (not login or second == login)
      and (not flat or first % 2 == 1) then
      entries[#entries + 1] = member
    end
  end
end
return answer('found', entries, names)
