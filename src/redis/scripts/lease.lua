-- Takes, renews or gives up the lease on the audit trail. One that is held with a lower rank is taken over, and so is one
-- that was given up: that has rank 0.
-- Answers: mine (it was, and goes on) | kept (the same, and nothing was written) | taken | alone (there was none) | other | gone (given up) | failed, why

local held = redis.pcall('GET', keys.lease)
if refused(held) then return answer('failed', failure) end
local rank, holder = string.match(held or '', '^(%d) (.*)$')
local is_mine = holder == args.holder
local text, done = args.rank .. ' ' .. args.holder, is_mine and 'mine' or held and 'taken' or 'alone'
if args.rank == '0' then
  if not is_mine then return answer('gone') end
  text, done = '0 -', 'gone'
elseif rank and not is_mine and rank >= args.rank then
  return answer('other')
end
-- It is asked for in each step, and each write is one in the append-only file.
local lease_ms = tonumber(args.lease_ms)
if done == 'mine' and rank == args.rank and redis.call('PTTL', keys.lease) > lease_ms * 2 / 3 then return answer('kept') end
if refused(redis.pcall('SET', keys.lease, text, 'PX', lease_ms)) then return answer('failed', failure) end
return answer(done)
