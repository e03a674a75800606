-- A piece of the content of one save, for a content that is too long for fetch.lua's answer.
-- Answers: piece, the content's length, bytes | replaced | failed, why

local h = read(keys.session)
if failure then return answer('failed', failure) end
if not h or not h.alive or h.save ~= args.save then return answer('replaced') end
local from = h.length + tonumber(args.from)
return answer('piece', redis.call('STRLEN', keys.session) - h.length,
  redis.call('GETRANGE', keys.session, from, from + tonumber(args.most) - 1))
