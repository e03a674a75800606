-- Imports a session that was a file on a disk, unless its name is known already: a session, or
-- the tombstone of one that has ended since.
-- Answers: taken | kept | over | failed, why

local old = read(keys.session)
if failure then return answer('failed', failure) end
if old then return answer(old.version == args.id and 'taken' or 'kept') end

-- A disk knows the last save alone: the login was no later, and the last use may be this moment.
-- The import itself is no save: what was begun before it and is sent after it is not overtaken by it.
local saved = math.max(0, math.min(tonumber(args.mtime_ms), now))
local h = {
  alive = true, version = args.id, save = args.id, birth = args.id, born = saved, before = '-',
  removal = '-', ending = 0, saved = saved, mtime = args.mtime, login = saved, active = now,
  opened = true, from_file = true, class = args.class, uid = args.uid, db = args.db,
  user = args.user, size = args.size, packing = args.packing, mode = args.mode, form = args.form,
  format = format_for(args.packing),
}
if not are_indexes_named(h.format) then return answer('failed', OTHER_INDEX) end
h.ends = ends(h, 0)
if stale(h) then return answer('over') end

local ttl = keep_ms(h)
if refused(redis.pcall('SET', keys.session, line(h) .. args.sealed, 'PX', ttl)) then
  return answer('failed', failure)
end
local session = { key = keys.session, alias = args.alias, tail = args.tail }
enter(session, h, ttl)
tell('began', 'import', session, h)
redis.call('STRLEN', keys.session) -- for client tracking, as in publish.lua
return answer('taken')
