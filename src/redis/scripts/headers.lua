-- The headers of sessions of one shard, as they lie there: nothing is judged. '' where there is none.
-- After the named arguments: each session's key.
-- Answers: headers, {header, ...}

local headers = {}
for i = KEYS_NAMED + 1, #KEYS do
  local bytes = redis.pcall('GETRANGE', KEYS[i], 0, HEADER_BYTES - 1)
  local line_end = type(bytes) == 'string' and string.find(bytes, '\n', 1, true) or 0
  headers[#headers + 1] = line_end > 0 and string.sub(bytes, 1, line_end) or ''
end
return answer('headers', headers)
