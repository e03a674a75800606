-- Notes activity, and keeps the key for as long as the lifetimes ask for. It never revives: it acts
-- on living sessions only.
-- After the named ones: each session's key (all of one shard), and its alias and the time of the
-- activity; '' for none: the lifetimes have become longer.
-- Answers: done, how many | failed, why

local touched = 0
for i = 1, #KEYS - KEYS_NAMED do
  local session = KEYS[KEYS_NAMED + i]
  local alias, at = ARGV[ARGV_NAMED + 2 * i - 1], tonumber(ARGV[ARGV_NAMED + 2 * i])
  local h = read(session)
  failure = nil -- what cannot be read is not touched
  -- What is over is left to who asks for it.
  if h and h.alive and (h.ending == 0 or now < h.ending) then
    weigh(h, keys.index, alias)
    if not over(h) then
      if at then
        -- A score above the save's own time shows that it was opened, if only by a millisecond.
        h.active = math.max(h.active, math.min(now, at), h.opened and 0 or h.active + 1)
        h.opened = true
        h.ends = ends(h, 0)
      end
      local ttl = redis.call('PTTL', session)
      -- A removal that is held takes its course.
      if h.ending == 0 and ttl >= 0 and ttl < h.ends - now + POLICY.grace then
        ttl = keep_ms(h)
        if refused(redis.pcall('PEXPIRE', session, ttl)) then return answer('failed', failure) end
        redis.call('STRLEN', session) -- for client tracking, as in publish.lua
      end
      if not enter(keys.index, alias, h.active, ttl) then return answer('failed', failure) end
      touched = touched + 1
    end
  end
end
return answer('done', touched)
