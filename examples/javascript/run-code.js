// Runs Python in a sandbox: state between cells, output as it comes, a data frame, a figure, an error.
// Where the pool is: E2B_API_URL, E2B_SANDBOX_URL, E2B_API_KEY, as `raybox up` prints them.
import { writeFile } from 'node:fs/promises'
import { Sandbox } from '@e2b/code-interpreter'

const sandbox = await Sandbox.create({ timeoutMs: 120_000 })
try {
  await sandbox.runCode('import pandas as pd\nframe = pd.DataFrame({"x": [1, 2, 3], "y": [2.5, 3.5, 4.5]})')

  await sandbox.runCode('for n in range(3): print("row", n, frame.y[n])', {
    onStdout: (message) => process.stdout.write(message.line),
  })

  const table = await sandbox.runCode('frame.describe().loc[["mean", "max"]]')
  console.log('data:', JSON.stringify(table.results[0].data))

  const figure = await sandbox.runCode(
    'import matplotlib.pyplot as plt\nplt.bar(frame.x, frame.y); plt.title("y by x"); plt.show()'
  )
  const { png, chart } = figure.results[0]
  await writeFile('figure.png', Buffer.from(png, 'base64'))
  console.log('figure:', png.length > 1000 ? 'figure.png' : 'empty', 'chart:', chart?.type ?? 'none')

  const failed = await sandbox.runCode('frame["z"]')
  console.log('error:', failed.error?.name, failed.error?.value)
} finally {
  await sandbox.kill()
}
