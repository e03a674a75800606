-- Makes a save the current version, by the rules of births: nothing that ended is revived.
-- Answers: taken, left, header | superseded | refused, code | failed, why

local alias, id, first_ms, retry = args.alias, args.id, tonumber(args.first_ms), is_retry()
local class, uid, opened, sibling_alias = args.class, args.uid, args.opened, args.sibling
local background, after_failed_read = args.background == '1', args.after_failed_read == '1'

local old = read(keys.session)
if failure then return answer('failed', failure) end

if old then
  local alive = old.state == 'alive'
  if alive then weigh(old, keys.index, alias) end
  if alive and old.version == id then return answer('taken', left(old), old.stored) end
  if retry and old.saved > first_ms then return answer('superseded') end
  if alive and stale(old) then
    -- It ends here; where the server takes no writes this save will find that out itself.
    if expire(keys.session, keys.index, alias, old) then old.state = 'gone' end
  end
end
local alive = old and old.state == 'alive'

-- Whether this save continues the life of `old`; otherwise a new one begins.
local goes_on = false
if class == 'anon' then
  if alive and old.class == 'auth' and after_failed_read then
    return answer('refused', 'unread')
  end
  -- Over an authenticated session it is a logout in place: a new life.
  goes_on = alive and old.class == 'anon'
elseif alive then
  if opened ~= '' and opened ~= old.birth then
    return answer('refused', 'replaced')
  end
  goes_on = true
elseif old then
  if args.own_unlink ~= old.birth or (opened ~= '' and opened ~= old.birth) then
    return answer('refused', 'ended')
  end
  goes_on = true
elseif opened ~= '' then
  return answer('refused', 'ended')
end

local h = {
  state = 'alive', version = id, saved = now, mtime = string.format('%d000000', now),
  class = class, uid = uid, db = args.db, user = args.user, size = args.size, form = args.form,
  mode = alive and old.mode or '644',
  birth = id, login = now, active = now, opened = false,
}
if goes_on then
  h.birth = old.birth
  h.opened = old.opened or opened == old.birth
  -- A login inside one life starts the clock of the absolute lifetime; later saves keep it.
  if old.class == class then h.login = old.login end
  if background then h.active = old.active end
elseif class == 'auth' and sibling_alias ~= '' then
  -- A soft rotation: the same person under the next id of the family.
  local sibling = read(keys.sibling_session)
  failure = nil -- a sibling that cannot be read is none
  if sibling and sibling.class == 'auth' and sibling.uid == uid and uid ~= '-' then
    h.login = sibling.login
    if sibling.state == 'alive' then weigh(sibling, keys.index, sibling_alias) end
    if background then h.active = sibling.active end
  end
end

h.ends = ends(h, 0)
if stale(h) then return answer('refused', 'lifetime') end

local ttl = keep_ms(h)
local header = line(h)
if refused(redis.pcall('SET', keys.session, header .. args.sealed, 'PX', ttl)) then
  return answer('failed', failure)
end
enter(keys.index, alias, h.active, ttl)
-- Client tracking reports the next change only to a client that has read after its own.
redis.call('STRLEN', keys.session)
return answer('taken', left(h), header)
