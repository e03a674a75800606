-- Makes room in a full server: ends sessions of visitors, unless they have changed since they were
-- looked at. No tombstone is left, which would take the room again, but where one is needed: a session
-- that came from a file must not be imported anew, and one that was somebody's before must not be
-- his again.
-- After the named ones: each session's key (all of one shard), and its alias, its tail and its version.
-- Answers: ended, {alias, ...} | failed, why

local ended = {}
for i = 1, #KEYS - KEYS_NAMED do
  local first = ARGV_NAMED + 3 * i - 2
  local session = { key = KEYS[KEYS_NAMED + i], alias = ARGV[first], tail = ARGV[first + 1] }
  local version = ARGV[first + 2]
  local h = read(session.key)
  failure = nil -- what cannot be read is not ours to end
  if h and h.alive and h.ending == 0 and h.class == 'anon' and h.version == version then
    if h.from_file or h.before == 'auth' then
      if not bury(session, h, NO_ID) then return answer('failed', failure) end
      failure = nil
    else
      if refused(redis.pcall('DEL', session.key)) then return answer('failed', failure) end
      leave(session, h)
    end
    ended[#ended + 1] = session.alias
  end
end
return answer('ended', ended)
