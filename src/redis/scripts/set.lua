-- Changes one live setting, and counts the change.
-- KEYS: the settings
-- ARGV: its name, its text ('' takes it away)
-- Answers: done, generation | failed, why

local name, text = ARGV[8], ARGV[9]
local changed
if text == '' then
  changed = redis.pcall('HDEL', KEYS[1], name)
else
  changed = redis.pcall('HSET', KEYS[1], name, text)
end
if refused(changed) then return answer('failed', failure) end
local generation = redis.pcall('HINCRBY', KEYS[1], 'generation', 1)
if refused(generation) then
  -- Somebody's own text stands there, which must not keep a setting from being changed.
  generation = 1
  redis.call('HSET', KEYS[1], 'generation', generation)
end
return answer('done', generation)
