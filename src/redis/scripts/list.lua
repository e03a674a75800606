-- The living among the named members of one shard. What is not there any more leaves the index.
-- KEYS: the index, then the sessions (all of one shard)
-- ARGV: the alias of each session
-- Answers: listed, {alias, left, activity, header, ...}

local living = {}
for i = 2, #KEYS do
  local alias = ARGV[6 + i]
  local h = read(KEYS[i])
  if failure then
    failure = nil -- another program's key, or a newer format: not ours to list or to remove
  elseif not h or h.state ~= 'alive' then
    redis.pcall('ZREM', KEYS[1], alias)
  else
    weigh(h, KEYS[1], alias)
    if not (stale(h) and expire(KEYS[i], KEYS[1], alias, h)) then
      living[#living + 1] = alias
      living[#living + 1] = left(h)
      living[#living + 1] = h.active
      living[#living + 1] = h.stored
    end
  end
end
return answer('listed', living)
