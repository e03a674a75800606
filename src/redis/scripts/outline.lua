-- What the root has to know of a shard's index: the names that may be flat, and which of the others was used last. A
-- large index is not gone through: nobody is served meanwhile.
-- Answers: outlined, {alias that may be flat, ...}, {the last used of the others, if there is one} | large

local most, long = tonumber(args.most), tonumber(args.long)
local members = redis.call('ZREVRANGEBYSCORE', keys.index, '+inf', '-inf', 'LIMIT', 0, most + 1)
if #members > most then return answer('large') end
local short, last = {}, {}
for i = 1, #members do
  if #members[i] < long then
    short[#short + 1] = members[i]
  elseif not last[1] then
    last[1] = members[i]
  end
end
return answer('outlined', short, last)
