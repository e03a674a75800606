-- Takes, renews or gives up the lease on the audit trail: its rank, the time until which it is held, and by whom. One that is
-- held with a lower rank is taken over, and so is one that was given up: that has rank 0. The key is kept for much longer
-- than the lease, so that it is gone only where Redis has lost it, and not because its clock has moved.
-- Answers: mine (it was, and goes on) | kept (the same, and nothing was written) | taken | alone (there was none) | other | gone (given up) | failed, why

local KEPT_MS = 7 * 24 * 3600 * 1000

local held = redis.pcall('GET', keys.lease)
if refused(held) then return answer('failed', failure) end
local rank, until_ms, holder = string.match(held or '', '^(%d) (%d+) (.*)$')
local lease_ms = tonumber(args.lease_ms)
local left = until_ms and tonumber(until_ms) - now or 0
-- One that would last for longer than a lease was taken before the clock was set back.
local is_held, is_mine = left > 0 and left <= lease_ms, holder == args.holder
local done = is_mine and 'mine' or held and 'taken' or 'alone'
local text = string.format('%s %d %s', args.rank, now + lease_ms, args.holder)
if args.rank == '0' then
  if not is_mine then return answer('gone') end
  text, done = '0 0 -', 'gone'
elseif is_held and not is_mine and rank >= args.rank then
  return answer('other')
end
-- It is asked for in each step, and each write is one in the append-only file.
if done == 'mine' and rank == args.rank and is_held and left > lease_ms / 2 then return answer('kept') end
if refused(redis.pcall('SET', keys.lease, text, 'PX', KEPT_MS)) then return answer('failed', failure) end
return answer(done)
