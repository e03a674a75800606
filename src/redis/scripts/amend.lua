-- Changes mode or mtime: a new version of the same bytes. Its lifetime stays as it is.
-- KEYS: the session, its index
-- ARGV: see the names below
-- Answers: taken, left, header | absent | failed, why

local alias, id, first_ms, retry = ARGV[8], ARGV[9], tonumber(ARGV[10]), is_retry()
local mode, mtime = ARGV[12], ARGV[13] -- '' to keep; mtime may be 'now'

local value = redis.pcall('GET', KEYS[1])
if refused(value) then return answer('failed', failure) end
if not value then return answer('absent') end
local h = parse(value)
if failure then return answer('failed', failure) end
if h.state ~= 'alive' then return answer('absent') end
weigh(h, KEYS[2], alias)
if stale(h) and expire(KEYS[1], KEYS[2], alias, h) then return answer('absent') end
-- Done already, or overtaken by a newer version that must not be changed by a late retry.
if h.version == id or (retry and h.saved > first_ms) then
  return answer('taken', left(h), h.stored)
end

h.version = id
h.saved = now
if mode ~= '' then h.mode = mode end
if mtime == 'now' then
  h.mtime = string.format('%d000000', now)
elseif mtime ~= '' then
  h.mtime = mtime
end
local header = line(h)
local changed = header .. string.sub(value, h.length + 1)
if refused(redis.pcall('SET', KEYS[1], changed, 'KEEPTTL')) then return answer('failed', failure) end
redis.call('STRLEN', KEYS[1])
return answer('taken', left(h), header)
