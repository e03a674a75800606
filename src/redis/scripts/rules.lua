-- What the rules say of a session (session/policy/rules.rs holds the same rules, and rules.rs beside this folder writes
-- their text). Where there are none, this defines nothing: no call pays for it.

local RULES = args.rules
-- The limits of the session of that header by the rules, and by `general` what no rule says.
local limits_by_rules

if RULES ~= '' then
  -- What the lines of a database begin with, where they begin, and whether there are those of users, logins and patterns;
  -- then what all its sessions have.
  local function group(db)
    local line = '\n' .. db
    local at, last = string.find(RULES, line .. ' ', 1, true)
    if not at then return nil end
    local idle, absolute, anonymous_idle, unopened, users, logins, patterns =
      string.match(RULES, '^(%d*),(%-?%d*),(%d*),(%d*) (#?)(=?)(~?)\n', last + 1)
    return {
      line = line, at = at, idle = idle, absolute = absolute, anonymous_idle = anonymous_idle, unopened = unopened,
      has_users = users ~= '', has_logins = logins ~= '', has_patterns = patterns ~= '',
    }
  end

  -- What the line of that name gives; nil, if there is none.
  local function values(of, name)
    local _, last = string.find(RULES, of.line .. name .. ' ', of.at, true)
    if last then return string.match(RULES, '^(%d*),(%-?%d*)', last + 1) end
  end

  local function decoded(word)
    if not string.find(word, '%', 1, true) then return word end
    return (string.gsub(word, '%%(%x%x)', function(hex) return string.char(tonumber(hex, 16)) end))
  end

  -- What is still to be found is ''. What was found first goes before.
  local function more(found, idle, absolute)
    if found.idle == '' and idle then found.idle = idle end
    if found.absolute == '' and absolute then found.absolute = absolute end
  end

  -- What the pattern with the most literal characters gives; that of a database goes before that of none.
  local function by_patterns(h, own, any)
    local login, found = decoded(h.user), { idle = '', absolute = '' }
    local idle_literals, absolute_literals = -1, -1
    for _, of in ipairs({ own or any, own and any }) do
      local _, last = string.find(RULES, of.line .. ' ~ ', of.at, true)
      local line = last and string.match(RULES, '^[^\n]*', last + 1) or ''
      for literals, pattern, idle, absolute in string.gmatch(line, '(%d+) (%S+) (%d*),(%-?%d*)') do
        literals = tonumber(literals)
        if literals <= idle_literals and literals <= absolute_literals then break end
        if string.find(login, decoded(pattern)) then
          if idle ~= '' and literals > idle_literals then found.idle, idle_literals = idle, literals end
          if absolute ~= '' and literals > absolute_literals then found.absolute, absolute_literals = absolute, literals end
        end
      end
    end
    return found.idle, found.absolute
  end

  local function of_user(h, own, any, found)
    if own and own.has_users then more(found, values(own, ' #' .. h.uid)) end
    if h.user == '-' then return end
    if own and own.has_logins then more(found, values(own, ' =' .. h.user)) end
    if any and any.has_logins then more(found, values(any, ' =' .. h.user)) end
    if (own and own.has_patterns) or (any and any.has_patterns) then more(found, by_patterns(h, own, any)) end
  end

  limits_by_rules = function(h, general)
    local own = group(h.db)
    local found = { idle = '', absolute = '' }
    if h.class == 'auth' then of_user(h, own, group('*'), found) end
    if own then more(found, own.idle, own.absolute) end
    return {
      idle = tonumber(found.idle) or general.idle,
      absolute = tonumber(found.absolute) or general.absolute,
      anonymous_idle = own and tonumber(own.anonymous_idle) or general.anonymous_idle,
      unopened = own and tonumber(own.unopened) or general.unopened,
    }
  end
end
