-- Notes activity, and keeps the key for as long as the lifetimes ask for. It never revives: it acts
-- on living sessions only.
-- KEYS: the index, then the sessions (all of one shard)
-- ARGV: alias and time for each session; '' for no activity: the lifetimes have become longer
-- Answers: done, how many | failed, why

local touched = 0
for i = 2, #KEYS do
  local alias, at = ARGV[4 + 2 * i], tonumber(ARGV[5 + 2 * i])
  local h = read(KEYS[i])
  failure = nil -- what cannot be read is not touched
  if h and h.state == 'alive' then
    weigh(h, KEYS[1], alias)
    if not stale(h) then
      if at then
        -- A first opening is told by a score above the save's own time, if only by a millisecond.
        h.active = math.max(h.active, math.min(now, at), h.opened and 0 or h.active + 1)
        h.opened = true
        h.ends = ends(h, 0)
      end
      local ttl = redis.call('PTTL', KEYS[i])
      if ttl >= 0 and ttl < h.ends - now + POLICY.grace then
        ttl = keep_ms(h)
        if refused(redis.pcall('PEXPIRE', KEYS[i], ttl)) then return answer('failed', failure) end
      end
      if not enter(KEYS[1], alias, h.active, ttl) then return answer('failed', failure) end
      touched = touched + 1
    end
  end
end
return answer('done', touched)
