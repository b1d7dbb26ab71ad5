package device

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestHalfACharacterIsFound(t *testing.T) {
	for body, ok := range map[string]bool{
		`{"a": "x"}`: true, `"\ud83d\ude00"`: true, `"\\ud800"`: true, `"\\\\ud800"`: true, `"\u0041\n"`: true, `"\uD83D\uDE00 \uFFFD"`: true, `"ü\"😀"`: true,
		`"\ud800"`: false, `"\udc00"`: false, `"\ud800\ud800"`: false, `"\ud800x"`: false, `"\\\ud800"`: false, `{"\udfff": 1}`: false, `"\ud83d\ude00\ude00"`: false, "\"\xff\"": false,
		`"\ud800\n\udc00"`: false,
		// No JSON, which is not for it to say, but nothing to fail at.
		`\`: true, `\u`: true, `\ud800`: false, `"\u12`: true, `"\uzzzz`: true,
	} {
		if err := CheckJSON([]byte(body)); (err == nil) != ok {
			t.Errorf("%s: %v, expected it to pass: %v", body, err, ok)
		}
	}
}

// What passes is decoded to what was written.
func FuzzCheckJSON(f *testing.F) {
	for _, s := range []string{`"\ud800"`, `"\ud83d\ude00"`, `"\\ud800"`, `"\u00e4"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var text string
		if CheckJSON([]byte(body)) != nil || json.Unmarshal([]byte(body), &text) != nil {
			return
		}
		if strings.ContainsRune(text, '\ufffd') && !strings.ContainsRune(body, '\ufffd') && !strings.Contains(strings.ToLower(body), `\ufffd`) {
			t.Errorf("%q became %q", body, text)
		}
	})
}
