// A client that goes away while its cell runs: `runCode` has no other way to be left.
import { Sandbox } from '@e2b/code-interpreter'

const sandbox = await Sandbox.connect(process.argv[2])
await sandbox.runCode("import time\nprint('up', flush=True)\ntime.sleep(60)", { onStdout: () => process.exit(3) })
