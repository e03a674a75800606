-- What the rules say of a session (session/policy/rules.rs holds the same rules, and rules.rs beside this folder writes
-- their text). Where there are none, this defines nothing: no call pays for it.

local RULES = args.rules
-- The limits of the session of that header by the rules, and by `general` what no rule says.
local limits_by_rules

if RULES ~= '' then
  local find, match = string.find, string.match
  -- Of no database in particular: whether there are lines of logins, and with which characters patterns begin.
  local any_logins, any_initials = match(RULES, '^\n%* ,,, .(.)(%S*)')

  -- What the line that begins so gives: '' is nothing.
  local function values(line, from)
    local _, last = find(RULES, line, from, true)
    if last then return match(RULES, '^(%d*),(%-?%d*)', last + 1) end
    return '', ''
  end

  local function decoded(word)
    if not find(word, '%', 1, true) then return word end
    return (string.gsub(word, '%%(%x%x)', function(hex) return string.char(tonumber(hex, 16)) end))
  end

  -- What fits a login of the patterns in one line, but for what an earlier line has found with as many literal characters.
  local function by_patterns(line, from, login, found)
    local _, last = find(RULES, line, from, true)
    local patterns = match(RULES, '^[^\n]*', last + 1)
    local are_encoded = find(patterns, '%', 1, true)
    for pattern, literals, given in string.gmatch(patterns, '(%S+) (%d+) (%S+)') do
      if find(login, are_encoded and decoded(pattern) or pattern) then
        literals = tonumber(literals)
        local idle, absolute = match(given, '^(%d*),(%-?%d*)')
        if idle ~= '' and literals > found.idle_literals then found.idle, found.idle_literals = idle, literals end
        if absolute ~= '' and literals > found.absolute_literals then
          found.absolute, found.absolute_literals = absolute, literals
        end
      end
    end
  end

  -- The patterns of one database, or of none, that may fit: those that may begin in any way, which go before others, and
  -- those that begin as the login does.
  local function by_initials(database, from, initials, login, found)
    if find(initials, '*', 1, true) then by_patterns(database .. '~* ', from, login, found) end
    local initial = match(login, '^%w')
    if initial and find(initials, initial, 1, true) then by_patterns(database .. '~' .. initial .. ' ', from, login, found) end
  end

  limits_by_rules = function(h, general)
    local database = '\n' .. h.db .. ' '
    local own, last = find(RULES, database, 1, true)
    local all_idle, all_absolute, anonymous_idle, unopened, users, logins, initials = '', '', '', '', '-', '-', ''
    if own then
      all_idle, all_absolute, anonymous_idle, unopened, users, logins, initials =
        match(RULES, '^(%d*),(%-?%d*),(%d*),(%d*) (.)(.)(%S*)', last + 1)
    end
    local idle, absolute = '', ''
    -- What was found first goes before.
    local function more(more_idle, more_absolute)
      if idle == '' then idle = more_idle end
      if absolute == '' then absolute = more_absolute end
    end
    if h.class == 'auth' then
      if users == '#' then more(values(database .. '#' .. h.uid .. ' ', own)) end
      if h.user ~= '-' then
        if logins == '=' then more(values(database .. '=' .. h.user .. ' ', own)) end
        if any_logins == '=' then more(values('\n* =' .. h.user .. ' ', 1)) end
        if initials ~= '' or (any_initials and any_initials ~= '') then
          local login = decoded(h.user)
          local found = { idle = '', idle_literals = -1, absolute = '', absolute_literals = -1 }
          if initials ~= '' then by_initials(database, own, initials, login, found) end
          if any_initials and any_initials ~= '' then by_initials('\n* ', 1, any_initials, login, found) end
          more(found.idle, found.absolute)
        end
      end
      more(all_idle, all_absolute)
    end
    return {
      idle = tonumber(idle) or general.idle, absolute = tonumber(absolute) or general.absolute,
      anonymous_idle = tonumber(anonymous_idle) or general.anonymous_idle, unopened = tonumber(unopened) or general.unopened,
    }
  end
end
