-- What the rules say of a session (session/policy/rules.rs holds the same rules, and rules.rs beside this folder writes
-- their text). Where there are none, this defines nothing: no call pays for it. Where there are some, every fetch does, so
-- that strings, tables and functions are made only where they are needed.

-- The limits of the session of that header by the rules, and by `general` what no rule says.
local limits_by_rules
-- Where limits were sent in the place of the rules: whether they are those of another owner. Then nothing may be judged.
local is_anothers

if args.rules ~= '' then
  local RULES, find, match = args.rules, string.find, string.match

  local function searched(h, general)
    local function decoded(word)
      return (string.gsub(word, '%%(%x%x)', function(hex) return string.char(tonumber(hex, 16)) end))
    end

    -- Goes through the patterns of one line. What they give takes the place of what is known (idle, with how many literal
    -- characters, absolute, with how many) if they have more of those.
    local function by_patterns(line, from, login, idle, idle_literals, absolute, absolute_literals)
      local _, last = find(RULES, line, from, true)
      local at = last + 1
      if find(login, '%', 1, true) then login = decoded(login) end
      while true do
        local mark, pattern, literals, values = match(RULES, '^(%%?)(%S+) (%d+) ()', at)
        if not mark then return idle, idle_literals, absolute, absolute_literals end
        if mark ~= '' then pattern = decoded(pattern) end
        if find(login, pattern) then
          literals = tonumber(literals)
          local more_idle, more_absolute = match(RULES, '^(%d*),(%-?%d*)', values)
          if more_idle ~= '' and literals > idle_literals then idle, idle_literals = more_idle, literals end
          if more_absolute ~= '' and literals > absolute_literals then
            absolute, absolute_literals = more_absolute, literals
          end
        end
        at = find(RULES, ' ', values, true) + 1
      end
    end

    -- The same of all lines that may fit, those of the session's own database first, and in them those that may begin in any
    -- way: that is the order of the text.
    local function by_all_patterns(login, initial, own, own_line, own_initials, any_initials)
      local i, i_literals, a, a_literals = '', -1, '', -1
      if find(own_initials, '*', 1, true) then
        i, i_literals, a, a_literals = by_patterns(own_line .. '~* ', own, login, i, i_literals, a, a_literals)
      end
      if find(own_initials, initial, 1, true) then
        i, i_literals, a, a_literals = by_patterns(own_line .. '~' .. initial .. ' ', own, login, i, i_literals, a, a_literals)
      end
      if find(any_initials, '*', 1, true) then
        i, i_literals, a, a_literals = by_patterns('\n* ~* ', 1, login, i, i_literals, a, a_literals)
      end
      if find(any_initials, initial, 1, true) then
        i, i_literals, a, a_literals = by_patterns('\n* ~' .. initial .. ' ', 1, login, i, i_literals, a, a_literals)
      end
      return i, a
    end

    -- The idle time and the absolute lifetime of who is logged in; '' is what no rule says. What is found first goes before.
    local function of_user(h, own, own_line, last)
      local idle, absolute = '', ''
      local function more(line, from)
        local _, found = find(RULES, line, from, true)
        if not found then return end
        local i, a = match(RULES, '^(%d*),(%-?%d*)', found + 1)
        if idle == '' then idle = i end
        if absolute == '' then absolute = a end
      end
      -- What all of the database have, and with which characters the logins and patterns begin that there are lines of.
      local all_idle, all_absolute, users, logins, initials, any_logins, any_initials = '', '', '', '', '', '', ''
      if own then
        all_idle, all_absolute, users, logins, initials = match(RULES, '^(%d*),(%-?%d*)%S* (#?),(%w*),(%S*)', last + 1)
      end
      if string.sub(RULES, 1, 3) == '\n* ' then
        any_logins, any_initials = match(RULES, '^,,, ,(%w*),(%S*)', 4)
      end
      if users ~= '' then more(own_line .. '#' .. h.uid .. ' ', own) end
      local initial = match(h.user, '^%w') or '0'
      if find(logins, initial, 1, true) then more(own_line .. '=' .. h.user .. ' ', own) end
      if find(any_logins, initial, 1, true) then more('\n* =' .. h.user .. ' ', 1) end
      if h.user ~= '-' and (initials ~= '' or any_initials ~= '') then
        local i, a = by_all_patterns(h.user, initial, own, own_line, initials, any_initials)
        if idle == '' then idle = i end
        if absolute == '' then absolute = a end
      end
      return idle ~= '' and idle or all_idle, absolute ~= '' and absolute or all_absolute
    end

    local own_line = '\n' .. h.db .. ' '
    local own, last = find(RULES, own_line, 1, true)
    local idle, absolute, anonymous_idle, unopened
    if h.class == 'auth' then
      idle, absolute = of_user(h, own, own_line, last)
    elseif own then
      anonymous_idle, unopened = match(RULES, '^%d*,%-?%d*,(%d*),(%d*)', last + 1)
    end
    return {
      idle = idle and tonumber(idle) or general.idle,
      absolute = absolute and tonumber(absolute) or general.absolute,
      anonymous_idle = anonymous_idle and tonumber(anonymous_idle) or general.anonymous_idle,
      unopened = unopened and tonumber(unopened) or general.unopened,
    }
  end

  limits_by_rules = searched
  -- Who has read a session before sends its owner and its limits in the place of the rules.
  local class, uid, db, user, idle, other = match(RULES, '^(%a+) (%S+) (%S*) (%S*) (%d+) (%-?%d+)$')
  if class then
    is_anothers = function(h)
      return user ~= h.user or uid ~= h.uid or db ~= h.db or class ~= h.class
    end
    limits_by_rules = function()
      if class == 'auth' then return { idle = tonumber(idle), absolute = tonumber(other) } end
      return { anonymous_idle = tonumber(idle), unopened = tonumber(other), absolute = -1 }
    end
  end
end
