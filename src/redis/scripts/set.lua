-- Changes one live setting, and counts the change.
-- Answers: done, generation | failed, why

local changed
if args.text == '' then
  changed = redis.pcall('HDEL', keys.settings, args.name)
else
  changed = redis.pcall('HSET', keys.settings, args.name, args.text)
end
if refused(changed) then return answer('failed', failure) end
local generation = redis.pcall('HINCRBY', keys.settings, 'generation', 1)
if refused(generation) then
  -- Somebody's own text stands there, which must not keep a setting from being changed.
  generation = 1
  redis.call('HSET', keys.settings, 'generation', generation)
end
return answer('done', generation)
