-- The living among the named members of one shard. What is not there any more leaves the index.
-- After the named ones: each session's key (all of one shard), and its alias.
-- Answers: listed, {alias, activity, left, header, ...}, {alias that cannot be read, ...}

local living, unreadable = {}, {}
for i = 1, #KEYS - KEYS_NAMED do
  local session, alias = KEYS[KEYS_NAMED + i], ARGV[ARGV_NAMED + i]
  local h = read(session)
  if failure then
    -- Another program's key, or a newer format: not ours to list, and no reason to list no other.
    failure = nil
    unreadable[#unreadable + 1] = alias
  elseif not h or not lives(session, keys.index, alias, h) then
    redis.pcall('ZREM', keys.index, alias)
  else
    living[#living + 1] = alias
    living[#living + 1] = h.active
    living[#living + 1] = left(h)
    living[#living + 1] = h.stored
  end
end
return answer('listed', living, unreadable)
