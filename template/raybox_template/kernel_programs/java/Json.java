import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** As much of JSON as frames need: of numbers, whole ones. Malformed text is a RuntimeException. */
final class Json {
    private final String text;
    private int at;

    Json(String text) {
        this.text = text;
    }

    Object value() {
        skipSpaces();
        char next = text.charAt(at);
        switch (next) {
            case '"':
                return string();
            case '[': {
                List<Object> found = new ArrayList<>();
                for (at++; !closed(']'); ) {
                    found.add(value());
                }
                return found;
            }
            case '{': {
                Map<String, Object> found = new TreeMap<>();
                for (at++; !closed('}'); ) {
                    skipSpaces();
                    String name = string();
                    skipSpaces();
                    at++; // the colon
                    found.put(name, value());
                }
                return found;
            }
            default: {
                int start = at;
                while (at < text.length() && ",]} \t".indexOf(text.charAt(at)) < 0) {
                    at++;
                }
                String word = text.substring(start, at);
                return switch (word) {
                    case "null" -> null;
                    case "true" -> Boolean.TRUE;
                    case "false" -> Boolean.FALSE;
                    default -> Long.valueOf(word);
                };
            }
        }
    }

    private void skipSpaces() {
        while (text.charAt(at) == ' ' || text.charAt(at) == '\t') {
            at++;
        }
    }

    private boolean closed(char end) {
        skipSpaces();
        if (text.charAt(at) == ',') {
            at++;
            return false;
        }
        if (text.charAt(at) == end) {
            at++;
            return true;
        }
        return false;
    }

    private String string() {
        StringBuilder found = new StringBuilder();
        for (at++; text.charAt(at) != '"'; at++) {
            char next = text.charAt(at);
            if (next != '\\') {
                found.append(next);
                continue;
            }
            at++;
            switch (text.charAt(at)) {
                case 'n' -> found.append('\n');
                case 't' -> found.append('\t');
                case 'r' -> found.append('\r');
                case 'b' -> found.append('\b');
                case 'f' -> found.append('\f');
                case 'u' -> {
                    found.append((char) Integer.parseInt(text.substring(at + 1, at + 5), 16));
                    at += 4;
                }
                default -> found.append(text.charAt(at));
            }
        }
        at++;
        return found.toString();
    }

    static String text(Object value) {
        StringBuilder written = new StringBuilder();
        write(value, written);
        return written.toString();
    }

    private static void write(Object value, StringBuilder to) {
        if (value instanceof Map<?, ?> map) {
            String separator = "{";
            for (Map.Entry<?, ?> entry : map.entrySet()) {
                to.append(separator);
                write(entry.getKey(), to);
                to.append(':');
                write(entry.getValue(), to);
                separator = ",";
            }
            to.append(map.isEmpty() ? "{}" : "}");
        } else if (value instanceof List<?> list) {
            String separator = "[";
            for (Object one : list) {
                to.append(separator);
                write(one, to);
                separator = ",";
            }
            to.append(list.isEmpty() ? "[]" : "]");
        } else if (value instanceof String string) {
            to.append('"');
            for (int index = 0; index < string.length(); index++) {
                char next = string.charAt(index);
                if (next < ' ' || next > '~' || next == '"' || next == '\\') {
                    to.append(String.format("\\u%04x", (int) next));
                } else {
                    to.append(next);
                }
            }
            to.append('"');
        } else {
            to.append(value);
        }
    }
}
