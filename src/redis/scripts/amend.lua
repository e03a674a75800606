-- Changes mode or mtime: a new version of the same bytes. Its lifetime stays as it is.
-- Answers: taken, activity, left, header | absent | failed, why

local id, first_ms, retry = args.id, tonumber(args.first_ms), is_retry()

local value = redis.pcall('GET', keys.session)
if refused(value) then return answer('failed', failure) end
if not value then return answer('absent') end
local h = parse(value)
if failure then return answer('failed', failure) end
if not lives({ key = keys.session, alias = args.alias, tail = args.tail }, h) then return answer('absent') end
-- Done already, or overtaken by a newer version that must not be changed by a late retry.
if h.version == id or (retry and h.saved > first_ms) then
  return answer('taken', h.active, left(h), h.stored)
end

h.version = id
h.saved = made_ms()
if args.mode ~= '' then h.mode = args.mode end
if args.mtime == 'now' then
  h.mtime = string.format('%d000000', now)
elseif args.mtime ~= '' then
  h.mtime = args.mtime
end
local header = line(h)
local changed = header .. string.sub(value, h.length + 1)
if refused(redis.pcall('SET', keys.session, changed, 'KEEPTTL')) then return answer('failed', failure) end
redis.call('STRLEN', keys.session) -- for client tracking, as in publish.lua
return answer('taken', h.active, left(h), header)
