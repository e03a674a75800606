-- The live settings, by name: whatever else lies there is none, however much it is.
-- After the named arguments: their names.
-- Answers: settings, {generation, value, ...} ('' for none) | failed, why

local LENGTH_MAX_BYTES = 64
local names = { 'generation' }
for i = ARGV_NAMED + 1, #ARGV do
  names[#names + 1] = ARGV[i]
end
local values = redis.pcall('HMGET', keys.settings, unpack(names))
if refused(values) then return answer('failed', failure) end
for i = 1, #names do
  values[i] = string.sub(values[i] or '', 1, LENGTH_MAX_BYTES)
end
return answer('settings', values)
