-- Makes room in a full server: ends sessions of visitors, unless they have changed since they were
-- looked at. No tombstone is left, which would take the room again, but where one is needed: a session
-- that came from a file must not be imported anew, and one that was somebody's before must not be
-- his again.
-- After the named ones: each session's key (all of one shard), and its alias and version.
-- Answers: ended, {alias, ...} | failed, why

local ended = {}
for i = 1, #KEYS - KEYS_NAMED do
  local session = KEYS[KEYS_NAMED + i]
  local alias, version = ARGV[ARGV_NAMED + 2 * i - 1], ARGV[ARGV_NAMED + 2 * i]
  local h = read(session)
  failure = nil -- what cannot be read is not ours to end
  if h and h.alive and h.ending == 0 and h.class == 'anon' and h.version == version then
    if h.from_file or h.before == 'auth' then
      if not bury(session, keys.index, alias, h, NO_ID) then return answer('failed', failure) end
      failure = nil
    else
      if refused(redis.pcall('DEL', session)) then return answer('failed', failure) end
      redis.pcall('ZREM', keys.index, alias)
    end
    ended[#ended + 1] = alias
  end
end
return answer('ended', ended)
