import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import jdk.jshell.Diag;
import jdk.jshell.EvalException;
import jdk.jshell.JShell;
import jdk.jshell.JShellException;
import jdk.jshell.Snippet;
import jdk.jshell.SnippetEvent;
import jdk.jshell.SourceCodeAnalysis;
import jdk.jshell.SourceCodeAnalysis.Completeness;
import jdk.jshell.UnresolvedReferenceException;
import jdk.jshell.execution.LocalExecutionControlProvider;
import sun.misc.Signal;

/**
 * The Java kernel: cells are evaluated by JShell in this very process, snippet after snippet.
 *
 * <p>The wire is descriptor 3, with JSON arrays {@code [kind, content]}, one a line, in both directions; what is printed
 * goes straight to descriptors 1 and 2. SIGINT stops the snippet that runs and keeps the state.
 */
public final class Kernel {
    private static final int WIRE = 3;
    private static final int MAX_RESULT_CHARS = 8 << 20;
    private static final String IMPORTS =
            "import java.io.*; import java.math.*; import java.net.*; import java.nio.file.*; import java.util.*; "
                    + "import java.util.concurrent.*; import java.util.function.*; import java.util.regex.*; "
                    + "import java.util.stream.*;";

    private final JShell shell;
    private final OutputStream wire;
    private volatile boolean running;
    private volatile boolean interrupted;
    private volatile int count;

    /** A failure to report. */
    private record Failure(String name, String value, String traceback) {}

    private Kernel(OutputStream wire) {
        this.wire = wire;
        shell = JShell.builder().executionEngine(new LocalExecutionControlProvider(), Map.of()).build();
        Signal.handle(new Signal("INT"), signal -> interrupt());
        evaluate(IMPORTS);
    }

    public static void main(String[] arguments) throws Exception {
        System.setOut(new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8));
        System.setErr(new PrintStream(new FileOutputStream(FileDescriptor.err), true, StandardCharsets.UTF_8));
        if (arguments.length > 0) { // a rehearsal, whose classes go into the archive that later starts share
            Kernel kernel = new Kernel(OutputStream.nullOutputStream());
            for (String code : arguments) {
                kernel.execute(Map.of("code", code, "env", Map.of("RAYBOX", "1"), "number", 0L));
            }
            return;
        }
        FileDescriptor wire = descriptor(WIRE);
        Kernel kernel = new Kernel(new FileOutputStream(wire));
        kernel.serve(new FileInputStream(wire));
        Runtime.getRuntime().halt(0);
    }

    private static FileDescriptor descriptor(int number) throws ReflectiveOperationException {
        FileDescriptor found = new FileDescriptor();
        Field field = FileDescriptor.class.getDeclaredField("fd");
        field.setAccessible(true);
        field.setInt(found, number);
        return found;
    }

    private void serve(InputStream requests) throws IOException {
        send("ready", Map.of());
        BufferedReader lines = new BufferedReader(new InputStreamReader(requests, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            List<?> request = (List<?>) new Json(line).value();
            Map<?, ?> content = (Map<?, ?>) request.get(1);
            switch ((String) request.get(0)) {
                case "execute" -> execute(content);
                case "configure" -> setProperties((Map<?, ?>) content.get("env"));
                case "exercise" -> evaluate("1 + 1");
                default -> { }
            }
        }
    }

    /** The variables of a cell are system properties; returned is what they were, null where there was none. */
    private static Map<String, Object> setProperties(Map<?, ?> variables) {
        Map<String, Object> before = new TreeMap<>();
        variables.forEach((key, value) -> {
            String name = (String) key;
            if (!name.isEmpty()) {
                before.put(name, value == null ? System.clearProperty(name) : System.setProperty(name, (String) value));
            }
        });
        return before;
    }

    private void execute(Map<?, ?> content) {
        count++;
        interrupted = false;
        running = true;
        Map<String, Object> before = setProperties((Map<?, ?>) content.get("env"));
        send("input", List.of(count, content.get("number")));
        Failure failure = evaluate((String) content.get("code"));
        running = false;
        if (interrupted) {
            failure = new Failure("KeyboardInterrupt", "", "KeyboardInterrupt");
        }
        System.out.flush();
        System.err.flush();
        if (failure != null) {
            send("error", Map.of(
                    "ename", failure.name, "evalue", failure.value, "traceback", List.of(failure.traceback)));
        }
        setProperties(before);
        send("done", Map.of("status", failure == null ? "ok" : "error", "number", content.get("number")));
    }

    /** Runs in a thread of its own. Again and again, because a snippet that is still being compiled does not hear it. */
    private void interrupt() {
        for (int cell = count; running && count == cell; ) {
            interrupted = true;
            shell.stop();
            try {
                Thread.sleep(20);
            } catch (InterruptedException never) {
                return;
            }
        }
    }

    /** Run what is in a cell, and report the value of its last expression. */
    private Failure evaluate(String code) {
        SourceCodeAnalysis analysis = shell.sourceCodeAnalysis();
        String value = null;
        for (String rest = code; !rest.isBlank() && !interrupted; ) {
            SourceCodeAnalysis.CompletionInfo next = analysis.analyzeCompletion(rest);
            if (next.completeness() == Completeness.EMPTY) {
                break; // comments alone
            }
            if (next.completeness() == Completeness.DEFINITELY_INCOMPLETE
                    || next.completeness() == Completeness.CONSIDERED_INCOMPLETE && next.source() == null) {
                String text = "the cell ends in the middle of a statement";
                return new Failure("CompilationError", text, text + ":\n" + rest.strip());
            }
            String source = next.source() != null ? next.source() : rest;
            value = null;
            for (SnippetEvent event : shell.eval(source)) {
                if (event.causeSnippet() != null) {
                    continue; // an earlier declaration that is compiled anew
                }
                Failure failure = failureOf(event);
                if (failure != null) {
                    return failure;
                }
                value = isExpression(event.snippet()) ? event.value() : null;
            }
            rest = next.source() != null ? next.remaining() : "";
        }
        if (value != null && !value.isEmpty() && !interrupted && running) { // empty: of a call that returns nothing
            if (value.length() > MAX_RESULT_CHARS) {
                value = value.substring(0, MAX_RESULT_CHARS) + "\n[cut: " + value.length() + " characters]";
            }
            send("execute_result", Map.of("data", Map.of("text/plain", value), "metadata", Map.of()));
        }
        return null;
    }

    private static boolean isExpression(Snippet snippet) {
        return snippet.kind() == Snippet.Kind.EXPRESSION
                || snippet.subKind() == Snippet.SubKind.TEMP_VAR_EXPRESSION_SUBKIND;
    }

    private Failure failureOf(SnippetEvent event) {
        JShellException exception = event.exception();
        if (exception instanceof UnresolvedReferenceException unresolved) {
            List<String> names = shell.unresolvedDependencies(unresolved.getSnippet()).toList();
            String text = "not defined: " + String.join(", ", names);
            return new Failure("UnresolvedReferenceException", text, "UnresolvedReferenceException: " + text);
        }
        if (exception instanceof EvalException thrown) {
            return new Failure(shortName(thrown), message(thrown), traceback(thrown));
        }
        if (event.status() != Snippet.Status.REJECTED) {
            return null;
        }
        StringBuilder text = new StringBuilder();
        String source = event.snippet().source();
        shell.diagnostics(event.snippet()).filter(Diag::isError).forEach(diagnostic -> {
            int start = (int) Math.max(0, Math.min(diagnostic.getStartPosition(), source.length()));
            int from = source.lastIndexOf('\n', Math.max(0, start - 1)) + 1;
            int to = source.indexOf('\n', start) < 0 ? source.length() : source.indexOf('\n', start);
            text.append(text.isEmpty() ? "" : "\n").append(diagnostic.getMessage(Locale.ROOT)).append('\n');
            text.append("    ").append(source, Math.min(from, to), to);
        });
        String first = text.toString().lines().findFirst().orElse("rejected");
        return new Failure("CompilationError", first, "CompilationError: " + text);
    }

    private static String shortName(EvalException thrown) {
        String name = thrown.getExceptionClassName();
        return name.substring(name.lastIndexOf('.') + 1).replaceFirst("^REPL\\$\\w+\\$", "");
    }

    private static String message(Throwable thrown) {
        return thrown.getMessage() == null ? "" : thrown.getMessage();
    }

    private static String traceback(EvalException thrown) {
        StringBuilder text = new StringBuilder();
        for (Throwable each = thrown; each != null; each = each.getCause()) {
            String name = each instanceof EvalException known ? known.getExceptionClassName() : each.getClass().getName();
            text.append(text.isEmpty() ? "" : "\nCaused by: ").append(name);
            text.append(each.getMessage() == null ? "" : ": " + each.getMessage());
            for (StackTraceElement frame : each.getStackTrace()) {
                text.append("\n    at ").append(frame);
            }
        }
        return text.toString();
    }

    private void send(String kind, Object content) {
        byte[] frame = (Json.text(List.of(kind, content)) + "\n").getBytes(StandardCharsets.UTF_8);
        try {
            synchronized (wire) {
                wire.write(frame);
                wire.flush();
            }
        } catch (IOException gone) {
            Runtime.getRuntime().halt(1);
        }
    }
}
