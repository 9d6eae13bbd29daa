// Commands, terminals, git.
import { Differs, isA, program, raised, same, that, until } from './programs.mjs'

program('commands_run', async (c) => {
  const result = await (await c.sandbox()).commands.run('echo out; echo err >&2; pwd; whoami')
  same([result.stdout, result.stderr, result.exitCode], ['out\n/home/user\nuser\n', 'err\n', 0])
})

program('commands_exit_code', async (c) => {
  const { commands } = await c.sandbox()
  const error = await raised(() => commands.run('echo no >&2; exit 7'))
  that(isA(error, 'CommandExitError'), `typed: ${error}`)
  same([error.exitCode, error.stderr], [7, 'no\n'])
})

program('commands_callbacks', async (c) => {
  const seen = []
  await (
    await c.sandbox()
  ).commands.run('echo 1; echo 2 >&2', {
    onStdout: (text) => void seen.push(['out', text]),
    onStderr: (text) => void seen.push(['err', text]),
  })
  same(seen.sort(), [
    ['err', '2\n'],
    ['out', '1\n'],
  ])
})

program('commands_envs_cwd_user', async (c) => {
  const { commands } = await c.sandbox()
  await commands.run('mkdir -p place')
  same((await commands.run('echo $A; pwd', { envs: { A: 'é' }, cwd: 'place' })).stdout, 'é\n/home/user/place\n')
  same((await commands.run('echo -$A-; id -un; pwd', { user: 'root' })).stdout, '--\nroot\n/root\n')
  const error = await raised(() => commands.run('true', { cwd: '/no/such' }))
  that(isA(error, 'InvalidArgumentError'), `no folder: ${error}`)
  same((await commands.run('sudo id -un')).stdout, 'root\n')
})

program('commands_timeout', async (c) => {
  const { commands } = await c.sandbox()
  const error = await raised(() => commands.run('sleep 61.25', { timeoutMs: 500 }))
  that(isA(error, 'TimeoutError'), `a timeout: ${error}`)
  await until(
    async () => !(await commands.run('ps ax -o args')).stdout.includes('sleep 61.25'),
    () => 'it is killed'
  )
})

program('commands_background', async (c) => {
  const { commands } = await c.sandbox()
  const handle = await commands.run('echo up; sleep 60', { background: true })
  that(
    (await commands.list()).some((one) => one.pid === handle.pid),
    'it is listed'
  )
  same((await commands.run(`kill -0 ${handle.pid} && echo there`)).stdout, 'there\n')
  same(await handle.kill(), true)
  const error = await raised(() => handle.wait())
  that(isA(error, 'CommandExitError'), `typed: ${error}`)
  same([error.exitCode, error.error], [-1, 'signal: killed'])
  same(await commands.kill(handle.pid), false)
})

program('commands_connect_and_stdin', async (c) => {
  const { commands } = await c.sandbox()
  const handle = await commands.run('read a; echo got $a; read b; echo got $b', { background: true, stdin: true })
  await handle.disconnect()
  const again = await commands.connect(handle.pid)
  await commands.sendStdin(handle.pid, 'one\n')
  await commands.sendStdin(handle.pid, 'two\n')
  same((await again.wait()).stdout, 'got one\ngot two\n')
  const error = await raised(() => commands.connect(999_999))
  that(isA(error, 'NotFoundError'), `not found: ${error}`)
})

program('commands_close_stdin', async (c) => {
  const { commands } = await c.sandbox()
  const handle = await commands.run('cat', { background: true, stdin: true })
  await commands.sendStdin(handle.pid, 'text')
  await commands.closeStdin(handle.pid)
  same((await handle.wait()).stdout, 'text')
})

program('commands_much_output', async (c) => {
  const result = await (await c.sandbox()).commands.run('head -c 3000000 /dev/zero | base64 -w0')
  same(result.stdout.length, 4_000_000)
})

program('commands_of_a_killed_sandbox', async (c) => {
  const sandbox = await c.create()
  const handle = await sandbox.commands.run('echo up; sleep 60', { background: true })
  const ended = raised(() => handle.wait())
  await sandbox.kill()
  const error = await ended
  if (!isA(error, 'TimeoutError')) {
    throw new Differs(`the error is ${error.constructor.name}: this client does not ask why its stream was cut`)
  }
})

class Terminal {
  seen = ''
  #decoder = new TextDecoder()
  constructor(pty) {
    this.pty = pty
  }
  onData = (data) => void (this.seen += this.#decoder.decode(data, { stream: true }))
  async start(options = {}) {
    this.handle = await this.pty.create({ rows: 24, cols: 80, onData: this.onData, ...options })
  }
  type(text) {
    return this.pty.sendInput(this.handle.pid, new TextEncoder().encode(text))
  }
  async until(text) {
    await until(
      () => this.seen.includes(text),
      () => `${JSON.stringify(text)} in ${JSON.stringify(this.seen.slice(-200))}`
    )
    this.seen = ''
  }
}

program('pty_size_and_input', async (c) => {
  const { pty } = await c.sandbox()
  const terminal = new Terminal(pty)
  await terminal.start({ cwd: '/tmp', envs: { A: 'own' } })
  await terminal.type('stty size; echo $A-$TERM; pwd\n')
  await terminal.until('24 80\r\nown-xterm-256color\r\n/tmp')
  await pty.resize(terminal.handle.pid, { rows: 40, cols: 120 })
  await terminal.type('stty size\n')
  await terminal.until('40 120')
  same(await pty.kill(terminal.handle.pid), true)
})

program('pty_python', async (c) => {
  const { pty } = await c.sandbox()
  const terminal = new Terminal(pty)
  await terminal.start()
  await terminal.type('PYTHON_BASIC_REPL=1 python3 -q\n')
  await terminal.until('>>> ')
  await terminal.type("print('answer', 6 * 7)\n")
  await terminal.until('answer 42')
  await pty.kill(terminal.handle.pid)
})

program('pty_connect', async (c) => {
  const { pty } = await c.sandbox()
  const terminal = new Terminal(pty)
  await terminal.start()
  await terminal.type('echo first-$((1 + 1))\n')
  await terminal.until('first-2')
  await terminal.handle.disconnect()
  terminal.handle = await pty.connect(terminal.handle.pid, { onData: terminal.onData })
  await terminal.type('echo again-$((1 + 2))\n')
  await terminal.until('again-3')
  await pty.kill(terminal.handle.pid)
  same(await pty.kill(terminal.handle.pid), false)
})

program('git_commit_and_branches', async (c) => {
  const { git, files } = await c.sandbox()
  await git.init('repo', { initialBranch: 'main' })
  await git.configureUser('me', 'me@example.org')
  await files.write('repo/f', 'x')
  same(
    (await git.status('repo')).fileStatus.map((one) => [one.name, one.status]),
    [['f', 'untracked']]
  )
  await git.add('repo')
  await git.commit('repo', 'first')
  that((await git.status('repo')).isClean, 'nothing to commit')
  await git.createBranch('repo', 'other')
  const branches = await git.branches('repo')
  same([[...branches.branches].sort(), branches.currentBranch], [['main', 'other'], 'other'])
  await git.checkoutBranch('repo', 'main')
  await git.deleteBranch('repo', 'other')
  same(await git.getConfig('user.name', { scope: 'global' }), 'me')
})

program('git_push_pull_clone', async (c) => {
  const { git, files } = await c.create()
  await git.init('shared.git', { bare: true, initialBranch: 'main' })
  await git.configureUser('me', 'me@example.org')
  await git.init('work', { initialBranch: 'main' })
  await files.write('work/f', '1')
  await git.add('work')
  await git.commit('work', 'first')
  await git.remoteAdd('work', 'origin', '/home/user/shared.git')
  same(await git.remoteGet('work', 'origin'), '/home/user/shared.git')
  await git.push('work', { remote: 'origin', branch: 'main' })
  await git.clone('/home/user/shared.git', { path: 'other' })
  same(await files.read('other/f'), '1')
  await files.write('work/f', '2')
  await git.add('work')
  await git.commit('work', 'second')
  await git.push('work', { remote: 'origin', branch: 'main' })
  await git.pull('other')
  same(await files.read('other/f'), '2')
})
