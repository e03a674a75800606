-- The living among the named members of one shard. What is not there any more leaves the index.
-- After the named ones: each session's key (all of one shard), and its alias.
-- Answers: listed, {alias, left, activity, header, ...}

local living = {}
for i = 1, #KEYS - KEYS_NAMED do
  local session, alias = KEYS[KEYS_NAMED + i], ARGV[ARGV_NAMED + i]
  local h = read(session)
  if failure then
    failure = nil -- another program's key, or a newer format: not ours to list or to remove
  elseif not h or h.state ~= 'alive' then
    redis.pcall('ZREM', keys.index, alias)
  else
    weigh(h, keys.index, alias)
    if not (stale(h) and expire(session, keys.index, alias, h)) then
      living[#living + 1] = alias
      living[#living + 1] = left(h)
      living[#living + 1] = h.active
      living[#living + 1] = h.stored
    end
  end
end
return answer('listed', living)
