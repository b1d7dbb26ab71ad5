package wire

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// What is on the wire is in docs/protocol.md: each message, each field with its number, each value, each limit.
func TestTheDocumentNamesEverythingOnTheWire(t *testing.T) {
	b, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	has := func(word string) bool {
		return regexp.MustCompile(`\b` + regexp.QuoteMeta(word) + `\b`).MatchString(doc)
	}
	messages := File_wire_proto.Messages()
	for i := range messages.Len() {
		m := messages.Get(i)
		if !has(string(m.Name())) {
			t.Errorf("docs/protocol.md does not name message %s", m.Name())
		}
		checkFields(t, doc, m)
	}
	enums := File_wire_proto.Enums()
	for i := range enums.Len() {
		e := enums.Get(i)
		if !has(string(e.Name())) {
			t.Errorf("docs/protocol.md does not name enum %s", e.Name())
		}
		for j := range e.Values().Len() {
			v := e.Values().Get(j)
			// "`CAUSE_NONE` | 0" in a table, "`COMPRESSION_NONE` 0" in a sentence.
			if !regexp.MustCompile("`" + string(v.Name()) + "`( \\|)? " + fmt.Sprint(v.Number()) + `\b`).MatchString(doc) {
				t.Errorf("docs/protocol.md does not say that %s is %d", v.Name(), v.Number())
			}
		}
	}
	for _, n := range []int{MaxFrame, MaxHandshakeFrame, MaxBody, MaxInventoryEntries, MaxFields} {
		if !strings.Contains(doc, thousands(n)) {
			t.Errorf("docs/protocol.md does not name the limit %s", thousands(n))
		}
	}
}

// A field is written "N `name`" in a table or "`name` (N" in a sentence.
func checkFields(t *testing.T, doc string, m protoreflect.MessageDescriptor) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		n, name := fmt.Sprint(f.Number()), "`"+string(f.Name())+"`"
		inTable := regexp.MustCompile(`\b` + n + `( \|)? ` + regexp.QuoteMeta(name)).MatchString(doc)
		inText := regexp.MustCompile(regexp.QuoteMeta(name) + ` \(` + n + `\b`).MatchString(doc)
		if !inTable && !inText {
			t.Errorf("docs/protocol.md does not name field %d %s of %s", f.Number(), f.Name(), m.Name())
		}
	}
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
