// Cells of code. Those of cells.json are the same for all clients.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Absent, Differs, isA, program, raised, same, that } from './programs.mjs'

const table = JSON.parse(readFileSync(new URL('cells.json', import.meta.url), 'utf8'))

for (const [name, wanted] of Object.entries(table)) {
  program(name, async (c) => {
    const execution = await (await c.sandbox()).runCode(wanted.code, { language: wanted.language })
    that(!execution.error, `no error: ${JSON.stringify(execution.error)}`)
    if ('stdout' in wanted) same(execution.logs.stdout.join(''), wanted.stdout)
    if ('text' in wanted) same(execution.text, wanted.text)
    if ('format' in wanted) {
      const result = execution.results[0]
      that([...result.formats()].includes(wanted.format), `${wanted.format} among ${[...result.formats()]}`)
      if ('equals' in wanted) same(result[wanted.format], wanted.equals)
      if ('starts' in wanted) that(result[wanted.format].startsWith(wanted.starts), `it starts with ${wanted.starts}`)
    }
    if ('extra' in wanted) {
      const { extra } = execution.results[0]
      if (!Object.keys(extra).length) throw new Absent('kinds beyond the named ones')
      same(extra, wanted.extra)
    }
    if ('chart' in wanted) {
      const shown = execution.results.find((result) => result.chart)
      that(shown?.png, 'there are a chart and a picture')
      same(Object.fromEntries(Object.keys(wanted.chart).map((key) => [key, shown.chart[key]])), wanted.chart)
    }
  })
}

program('run_code_state', async (c) => {
  const sandbox = await c.create()
  const first = await sandbox.runCode('x = 20')
  const second = await sandbox.runCode('x * 2.1')
  same([first.executionCount, second.executionCount, second.text], [1, 2, '42.0'])
})

program('run_code_error', async (c) => {
  const { error } = await (await c.sandbox()).runCode("{}['key']")
  same([error.name, error.value], ['KeyError', "'key'"])
  that(error.traceback.includes('KeyError') && !error.traceback.includes('\x1b'), 'a plain traceback')
})

program('run_code_callbacks', async (c) => {
  const seen = []
  const execution = await (
    await c.sandbox()
  ).runCode('import sys\nprint(1)\nprint(2, file=sys.stderr)\ndisplay(3)\n1 / 0', {
    onStdout: (message) => seen.push(['stdout', message.line]),
    onStderr: (message) => seen.push(['stderr', message.line]),
    onResult: (result) => seen.push(['result', result.text]),
    onError: (error) => seen.push(['error', error.name]),
  })
  const said = (kind) => seen.filter(([name]) => name === kind).map(([, text]) => text)
  same([said('stdout').join(''), said('stderr').join('')], ['1\n', '2\n'])
  same(seen.slice(-2), [
    ['result', '3'],
    ['error', 'ZeroDivisionError'],
  ])
  same([execution.logs.stdout.join(''), execution.logs.stderr.join('')], ['1\n', '2\n'])
})

program('run_code_streams', async (c) => {
  const sandbox = await c.sandbox()
  const code =
    "import os, time\nprint('up', flush=True)\nwhile not os.path.exists('/tmp/go'): time.sleep(0.01)\nprint('end')"
  const execution = await sandbox.runCode(code, {
    onStdout: () => sandbox.files.write('/tmp/go', ''),
    timeoutMs: 20_000,
  })
  await sandbox.files.remove('/tmp/go')
  same(execution.logs.stdout.join(''), 'up\nend\n')
})

program('run_code_envs', async (c) => {
  const sandbox = await c.create({ envs: { A: 'global' } })
  const code = "import os; os.environ.get('A'), os.environ.get('B')"
  same((await sandbox.runCode(code, { envs: { A: 'own', B: 'é' } })).text, "('own', 'é')")
  same((await sandbox.runCode(code)).text, "('global', None)")
})

program('run_code_timeout', async (c) => {
  const sandbox = await c.sandbox()
  await sandbox.runCode('kept = 1')
  const error = await raised(() => sandbox.runCode('while True: pass', { timeoutMs: 500 }))
  that(isA(error, 'TimeoutError'), `a timeout: ${error}`)
  same((await sandbox.runCode('kept', { timeoutMs: 20_000 })).text, '1')
})

program('run_code_disconnect', async (c) => {
  const sandbox = await c.sandbox()
  const leave = fileURLToPath(new URL('leave.mjs', import.meta.url))
  const left = spawn(process.execPath, [leave, sandbox.sandboxId], { stdio: 'inherit' })
  same(await new Promise((resolve) => left.on('exit', resolve)), 3)
  same((await sandbox.runCode('1 + 1', { timeoutMs: 20_000 })).text, '2')
})

program('run_code_unknown_language', async (c) => {
  const sandbox = await c.sandbox()
  const error = await raised(() => sandbox.runCode('1', { language: 'cobol' }))
  that(isA(error, 'SandboxError'), `refused: ${error}`)
  if (!error.message.includes('500')) throw new Differs('the status is 400 instead of 500')
})

program('context_create_and_run', async (c) => {
  const sandbox = await c.sandbox()
  const context = await sandbox.createCodeContext({ cwd: '/tmp', language: 'python' })
  same([context.language, context.cwd], ['python', '/tmp'])
  await sandbox.runCode('mine = 1', { context })
  same((await sandbox.runCode('import os; os.getcwd()', { context })).text, '/tmp')
  same((await sandbox.runCode("'mine' in globals()")).text, 'False')
  await sandbox.removeCodeContext(context)
})

program('context_list', async (c) => {
  const sandbox = await c.create()
  same(
    (await sandbox.listCodeContexts()).map((one) => one.language),
    ['python', 'javascript']
  )
  const context = await sandbox.createCodeContext()
  same((await sandbox.listCodeContexts()).at(-1).id, context.id)
})

program('context_restart', async (c) => {
  const sandbox = await c.sandbox()
  const context = await sandbox.createCodeContext()
  await sandbox.runCode('mine = 1', { context })
  await sandbox.restartCodeContext(context)
  same((await sandbox.runCode('mine', { context })).error.name, 'NameError')
  await sandbox.removeCodeContext(context.id)
})

program('context_remove', async (c) => {
  const sandbox = await c.sandbox()
  const context = await sandbox.createCodeContext()
  await sandbox.removeCodeContext(context)
  const error = await raised(() => sandbox.runCode('1', { context }))
  that(isA(error, 'NotFoundError'), `not found: ${error}`)
})

program('context_and_language', async (c) => {
  const sandbox = await c.sandbox()
  const context = await sandbox.createCodeContext()
  that(isA(await raised(() => sandbox.runCode('1', { context, language: 'python' })), 'Error'), 'refused')
  await sandbox.removeCodeContext(context)
})
