record Word(String text, int length) {}

List<Word> words = Stream.of("one", "two", "three").map(text -> new Word(text, text.length())).toList();
for (Word word : words) {
    System.out.print(word.length() + " ");
}
System.out.println();
words.stream().mapToInt(Word::length).sum()
