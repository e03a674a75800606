-- The living among the named members of one shard. The entry of what is not there any more leaves its index, if that is
-- asked for.
-- After the named ones: each session's key (all of one shard), and its alias, the marks that it is found by ('' in the
-- long index), and its tail.
-- Answers: listed, {alias, activity, left, header, ...}, {alias that cannot be read, ...}

-- Whether these are the marks of somebody who is logged in. A visitor has neither user id nor login.
local function is_of_a_person(marks)
  return marks ~= '' and (math.floor(string.byte(marks, 1) / 2) ~= mark('-') % 128 or string.byte(marks, 2) ~= mark('-'))
end

-- Takes the entry that was found out of the index, unless it is that of a living session. If the key is not there at
-- all, Redis has ended or lost it: who it was is gone with it.
local function tidy(session, marks, h, is_lost)
  local index, member = keys.index, session.alias
  if marks ~= '' then index, member = quarter(session.tail), marks .. session.tail end
  if h then
    local own_index, own_member = entry(session, h)
    if index == own_index and member == own_member then return end
    -- It may be in none: its own entry was lost. Then this one stays as long as there is no other.
    if not h.indexed and not enter_again(session, h) then return end
  end
  if redis.pcall('ZREM', index, member) == 1 and is_lost and is_of_a_person(marks) then
    tell('ended', 'lost', session, { class = 'auth', birth = NO_ID, uid = '-', db = '-', user = '-', login = now, active = now })
  end
end

local living, unreadable = {}, {}
for i = 1, #KEYS - KEYS_NAMED do
  local first = ARGV_NAMED + 3 * i - 2
  local session = { key = KEYS[KEYS_NAMED + i], alias = ARGV[first], tail = ARGV[first + 2] }
  local h = read(session.key)
  if failure == OTHER_INDEX then return answer('failed', failure) end
  if failure then
    -- Another program's key, or a newer format: not ours to list, and no reason to list no other.
    failure = nil
    unreadable[#unreadable + 1] = session.alias
  else
    local is_living = h and lives(session, h)
    if args.tidies == '1' then tidy(session, ARGV[first + 1], is_living and h, not h) end
    if is_living then
      living[#living + 1] = session.alias
      living[#living + 1] = h.active
      living[#living + 1] = left(h)
      living[#living + 1] = h.stored
    end
  end
end
return answer('listed', living, unreadable)
