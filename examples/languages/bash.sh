for word in one two three; do
  printf '%s\n' "$word"
done | sort | tr '\n' ' '
echo
