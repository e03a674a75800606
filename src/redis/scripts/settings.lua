-- The live settings by name, and the rules of lifetimes, which lie beside them under a key and a selector. Whatever else
-- lies there is none, however much it is.
-- After the named arguments: the names of the settings.
-- Answers: settings, {generation, value, ...} ('' for none), {place of a rule, value, ...}, why the rules could not be
-- read or '' | failed, why

local LENGTH_MAX_BYTES, PLACE_MAX_BYTES = 64, 1024
-- More than there can be rules (session/policy/rules.rs) and settings together.
local FIELDS_MAX = 512

local names = { 'generation' }
for i = ARGV_NAMED + 1, #ARGV do
  names[#names + 1] = ARGV[i]
end
local values = redis.pcall('HMGET', keys.settings, unpack(names))
if refused(values) then return answer('failed', failure) end
for i = 1, #names do
  values[i] = string.sub(values[i] or '', 1, LENGTH_MAX_BYTES)
end

-- A user without the right to these commands still gets the settings.
local fields = redis.pcall('HLEN', keys.settings)
if refused(fields) then return answer('settings', values, {}, failure) end
if fields > FIELDS_MAX then
  return answer('settings', values, {}, fields .. ' fields beside the live settings; at most ' .. FIELDS_MAX .. ' are read')
end
local all = redis.pcall('HGETALL', keys.settings)
if refused(all) then return answer('settings', values, {}, failure) end
local rules = {}
for i = 1, #all, 2 do
  if string.find(all[i], '^lifetime%.[%l_]+ ') then
    rules[#rules + 1] = string.sub(all[i], 1, PLACE_MAX_BYTES)
    rules[#rules + 1] = string.sub(all[i + 1], 1, LENGTH_MAX_BYTES)
  end
end
return answer('settings', values, rules, '')
