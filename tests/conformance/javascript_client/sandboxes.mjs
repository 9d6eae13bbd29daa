// The life of sandboxes.
import { randomBytes } from 'node:crypto'
import { Sandbox } from '@e2b/code-interpreter'
import { Differs, Mismatch, isA, program, raised, same, that, until } from './programs.mjs'

const seconds = (info) => (info.endAt - info.startedAt) / 1000
const mark = () => randomBytes(4).toString('hex')
const CUT = ': this client does not ask why its stream was cut'

async function listed(options) {
  const pages = Sandbox.list(options)
  const found = []
  while (pages.hasNext) found.push((await pages.nextItems()).map((one) => one.sandboxId))
  return found
}

program('create', async (c) => {
  const sandbox = await Sandbox.create()
  c.made.push(sandbox)
  const info = await sandbox.getInfo()
  same(info.sandboxId, sandbox.sandboxId)
  that(seconds(info) > 299 && seconds(info) < 301, '300 s is the default')
})

program('create_options', async (c) => {
  const options = { timeoutMs: 77_000, metadata: { 'a b/&': 'é=1' }, envs: { MINE: '1' }, secure: true }
  const sandbox = await c.create(options, 'code-interpreter-v1')
  const info = await sandbox.getInfo()
  same(info.metadata, { 'a b/&': 'é=1' })
  that(seconds(info) > 76 && seconds(info) < 78, 'it ends after its timeout')
  same((await sandbox.commands.run('echo $MINE')).stdout, '1\n')
  same((await sandbox.runCode("import os; os.environ['MINE']")).text, '1')
})

program('create_base_template', async (c) => {
  same((await (await c.create({}, 'base')).commands.run('echo up')).stdout, 'up\n')
})

program('create_unknown_template', async (c) => {
  const error = await raised(() => c.create({}, 'no-such-template'))
  that(isA(error, 'NotFoundError') || String(error).includes('404'), `404: ${error}`)
})

program('create_insecure', async (c) => {
  const sandbox = await c.create({ secure: false })
  await sandbox.files.write('a', 'b')
  same(await sandbox.files.read('a'), 'b')
})

program('create_without_internet', async (c) => {
  const sandbox = await c.create({ allowInternetAccess: false })
  same((await sandbox.getInfo()).allowInternetAccess, false)
  const reach = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
  that((await sandbox.runCode(reach)).error, 'nothing is reached')
})

program('create_with_internet', async (c) => {
  const info = await (await c.create({ allowInternetAccess: true })).getInfo()
  if (info.allowInternetAccess === false) {
    throw new Differs('accepted, and without a network unless the pool has one (`--network egress`)')
  }
})

program('create_allow_list', async (c) => {
  await c.create({ network: { allowOut: ['192.0.2.1'], denyOut: ['0.0.0.0/0'] } })
})

program('create_deny_list', async (c) => {
  const sandbox = await c.create({ network: { denyOut: ['192.0.2.0/24'] } })
  same((await sandbox.getInfo()).network.denyOut, ['192.0.2.0/24'])
})

program('update_network', async (c) => {
  const sandbox = await c.create()
  await sandbox.updateNetwork({ denyOut: ['192.0.2.0/24'] })
  same((await sandbox.getInfo()).network.denyOut, ['192.0.2.0/24'])
  await sandbox.updateNetwork({})
  that(!(await sandbox.getInfo()).network?.denyOut?.length, 'what is not named is cleared')
})

program('connect', async (c) => {
  const sandbox = await c.create({ timeoutMs: 60_000 })
  await sandbox.runCode('kept = 7')
  const end = (await sandbox.getInfo()).endAt
  const again = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 10_000 })
  same((await again.runCode('kept')).text, '7')
  same((await again.getInfo()).endAt, end)
  await sandbox.connect({ timeoutMs: 100_000 })
  that((await sandbox.getInfo()).endAt > end, 'connecting makes the time longer')
})

program('connect_to_unknown', async () => {
  const error = await raised(() => Sandbox.connect('inosuchsandbox00000000'))
  that(isA(error, 'NotFoundError'), `not found: ${error}`)
})

program('list_pages', async (c) => {
  const metadata = { mark: mark() }
  const made = []
  for (let number = 0; number < 3; number++) made.push((await c.create({ metadata })).sandboxId)
  same(await listed({ query: { metadata }, limit: 2 }), [[made[2], made[1]], [made[0]]])
})

program('list_by_metadata_and_state', async (c) => {
  const metadata = { 'k &=/é': 'v %20' }
  const sandbox = await c.create({ metadata })
  same(await listed({ query: { metadata, state: ['running'] } }), [[sandbox.sandboxId]])
  same(await listed({ query: { metadata: { 'k &=/é': 'other' } } }), [[]])
  same(await listed({ query: { metadata, state: ['paused'] } }), [[]])
})

program('list_by_start_and_template', async (c) => {
  const metadata = { mark: mark() }
  const made = []
  for (let number = 0; number < 2; number++) made.push((await c.create({ metadata })).sandboxId)
  const template = (await Sandbox.getInfo(made[1])).templateId
  same(await listed({ query: { metadata, template }, order: 'asc' }), [made])
  same(await listed({ query: { metadata, template: 'no-such-template' } }), [[]])
  same(await listed({ query: { metadata, startedAfter: new Date(Date.now() + 3_600_000) } }), [[]])
})

program('get_info', async (c) => {
  const sandbox = await c.create({ metadata: { who: 'me' } })
  for (const info of [await sandbox.getInfo(), await Sandbox.getInfo(sandbox.sandboxId)]) {
    same([info.sandboxId, info.metadata, info.state], [sandbox.sandboxId, { who: 'me' }, 'running'])
    that(info.cpuCount >= 1 && info.memoryMB > 0, 'it says how large it is')
    that(info.endAt > info.startedAt && info.envdVersion, 'it says when it ends')
  }
})

program('set_timeout', async (c) => {
  const sandbox = await c.create({ timeoutMs: 100_000 })
  const end = (await sandbox.getInfo()).endAt
  await sandbox.setTimeout(50_000)
  that((await sandbox.getInfo()).endAt < end, 'shorter')
  await Sandbox.setTimeout(sandbox.sandboxId, 200_000)
  that((await sandbox.getInfo()).endAt > end, 'longer')
})

program('end_by_timeout', async (c) => {
  const sandbox = await c.create({ timeoutMs: 60_000 })
  await sandbox.setTimeout(0)
  await until(
    async () => !(await sandbox.isRunning()),
    () => 'it ends'
  )
  const error = await raised(() => sandbox.getInfo())
  that(isA(error, 'NotFoundError'), `not found: ${error}`)
})

program('is_running', async (c) => {
  const sandbox = await c.create()
  same(await sandbox.isRunning(), true)
  await sandbox.kill()
  same(await sandbox.isRunning(), false)
})

program('kill', async (c) => {
  const sandbox = await c.create()
  same(await sandbox.kill(), true)
  same(await sandbox.kill(), false)
  same(await Sandbox.kill(sandbox.sandboxId), false)
  let error = await raised(() => sandbox.runCode('1'))
  that(isA(error, 'TimeoutError'), `cells: ${error}`)
  error = await raised(() => sandbox.commands.run('true'))
  that(isA(error, 'TimeoutError', 'NotFoundError'), `commands: ${error}`)
  error = await raised(() => sandbox.files.read('a'))
  that(isA(error, 'TimeoutError', 'NotFoundError'), `files: ${error}`)
})

program('kill_while_a_cell_runs', async (c) => {
  const sandbox = await c.create()
  const code = "import time; print('up', flush=True); time.sleep(60)"
  let killed
  const error = await raised(() => sandbox.runCode(code, { onStdout: () => void (killed = sandbox.kill()) }))
  await killed
  if (error instanceof Mismatch) throw error
  if (!isA(error, 'TimeoutError')) throw new Differs(`the error is ${error.constructor.name}${CUT}`)
})

program('get_metrics', async (c) => {
  const sandbox = await c.sandbox()
  let metrics = []
  await until(
    async () => (metrics = await sandbox.getMetrics()).length > 0,
    () => 'there is a sample'
  )
  const last = metrics.at(-1)
  that(last.cpuCount >= 1 && last.cpuUsedPct >= 0, 'CPU')
  that(last.memUsed > 0 && last.memUsed <= last.memTotal, 'memory')
  that(last.diskUsed >= 0 && last.diskUsed <= last.diskTotal, 'disk')
})

program('wrong_key', async () => {
  const error = await raised(() => Sandbox.create({ apiKey: `e2b_${'0'.repeat(40)}` }))
  that(isA(error, 'AuthenticationError'), `401: ${error}`)
})
