-- Whether the server takes writes, and this user's, asked as a save asks: a key is set if it exists,
-- and nobody makes it. Should somebody have made it, it ends at once.
-- KEYS: that key
-- Answers: taken | failed, why

if refused(redis.pcall('SET', KEYS[1], '', 'XX', 'PX', 1)) then return answer('failed', failure) end
return answer('taken')
