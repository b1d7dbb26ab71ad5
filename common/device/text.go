package device

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// CheckJSON returns an error where JSON holds what decoders put another character in the place of, without a word: bytes that are not
// UTF-8, and an escape that is half a character (\ud800). Whether it is JSON is not looked at.
func CheckJSON(body []byte) error {
	if !utf8.Valid(body) {
		return errors.New("expected UTF-8")
	}
	for i := 0; i < len(body); i++ {
		if body[i] != '\\' {
			continue
		}
		first, ok := escaped(body[i:])
		if !ok {
			i++ // another escape, such as of a backslash
			continue
		}
		const length = len(`\u0000`)
		if utf16.IsSurrogate(first) {
			second, _ := escaped(body[min(i+length, len(body)):])
			if utf16.DecodeRune(first, second) == utf8.RuneError {
				return fmt.Errorf("expected characters, found half of one, %s", body[i:i+length])
			}
			i += length
		}
		i += length - 1
	}
	return nil
}

// escaped is the character that a text begins with as \uXXXX, or half of it.
func escaped(text []byte) (r rune, ok bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(n), err == nil
}
