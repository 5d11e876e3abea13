-- What the script needs of Redis, for an interpreter of its own. Reads "KEYS | ARGV" a line, tab-separated, and prints
-- the reply; a number that is no integer is marked. The clock goes on by 50 ms a line.

local store, clock = {}, 1900000000000000

redis = {}
function redis.call(command, key, value)
  if command == 'TIME' then
    return {tostring(clock // 1000000), tostring(clock % 1000000)}
  elseif command == 'GET' then
    return store[key] or false
  end
  store[key] = value
  return {ok = 'OK'}
end
redis.pcall = redis.call

local script = assert(load(io.open(arg[1]):read('a')))
local function split(text)
  local fields = {}
  for field in string.gmatch(text, '[^\t]+') do fields[#fields + 1] = field end
  return fields
end

for line in io.lines() do
  local keys, args = string.match(line, '^(.-)|(.*)$')
  KEYS, ARGV = split(keys), split(args)
  local reply = script()
  local numbers = {}
  for i = 1, #reply do
    numbers[i] = tostring(reply[i]) .. (math.type(reply[i]) == 'integer' and '' or '!')
  end
  print(table.concat(numbers, ' '))
  clock = clock + 50000
end
