-- Notes activity, and keeps the key for as long as the lifetimes ask for. It never revives: it acts
-- on living sessions only.
-- After the named ones: each session's key (all of one shard), and its alias, its tail and the time of
-- the activity; '' for none: the lifetimes have become longer.
-- Answers: done, how many | failed, why (others are touched all the same)

local touched, problem = 0, nil
for i = 1, #KEYS - KEYS_NAMED do
  local first = ARGV_NAMED + 3 * i - 2
  local session = { key = KEYS[KEYS_NAMED + i], alias = ARGV[first], tail = ARGV[first + 1] }
  local at = tonumber(ARGV[first + 2])
  local h = read(session.key)
  -- What is in an index that is not named is touched by the next call. What cannot be read is not touched.
  if failure == OTHER_INDEX then problem = failure end
  failure = nil
  -- What is over is left to who asks for it.
  if h and h.alive and (h.ending == 0 or now < h.ending) then
    weigh(session, h)
    if not over(h) then
      if at then
        -- A score above the save's own time shows that it was opened, if only by a millisecond.
        h.active = math.max(h.active, math.min(now, at), h.opened and 0 or h.active + 1)
        h.opened = true
        h.ends = ends(h, 0)
      end
      local ttl = redis.call('PTTL', session.key)
      -- A removal that is held takes its course.
      if h.ending == 0 and ttl >= 0 and ttl < h.ends - now + POLICY.grace then
        ttl = keep_ms(h)
        if not refused(redis.pcall('PEXPIRE', session.key, ttl)) then
          redis.call('STRLEN', session.key) -- for client tracking, as in publish.lua
        end
      end
      if not failure and enter(session, h, ttl) then touched = touched + 1 end
      problem, failure = problem or failure, nil
    end
  end
end
if problem then return answer('failed', problem) end
return answer('done', touched)
