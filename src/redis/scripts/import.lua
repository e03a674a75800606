-- Takes in a session that was a file on a disk, unless its name is known already: a session, or
-- the tombstone of one that has ended since.
-- KEYS: the session, its index
-- ARGV: see the names below
-- Answers: taken | kept | over | failed, why

local alias, id = ARGV[8], ARGV[9]
local class, uid, db, user = ARGV[12], ARGV[13], ARGV[14], ARGV[15]
local size, form, mtime, mtime_ms, mode = ARGV[16], ARGV[17], ARGV[18], tonumber(ARGV[19]), ARGV[20]
local sealed = ARGV[21]

local old = read(KEYS[1])
if failure then return answer('failed', failure) end
if old then return answer(old.version == id and 'taken' or 'kept') end

-- A disk knows the last save alone: the login was no later, and the last use may be this moment.
local h = {
  state = 'alive', version = id, birth = id, saved = now, mtime = mtime,
  login = math.max(0, math.min(mtime_ms, now)), active = now, opened = true,
  class = class, uid = uid, db = db, user = user, size = size, mode = mode, form = form,
}
h.ends = ends(h, 0)
if stale(h) then return answer('over') end

local ttl = keep_ms(h)
if refused(redis.pcall('SET', KEYS[1], line(h) .. sealed, 'PX', ttl)) then
  return answer('failed', failure)
end
enter(KEYS[2], alias, h.active, ttl)
redis.call('STRLEN', KEYS[1])
return answer('taken')
