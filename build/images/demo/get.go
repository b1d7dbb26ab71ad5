package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// get asks a server and prints the status and the beginning of its answer. Whose certificate the server has is not looked at:
// it is for pods that try what they may reach.
func get(args []string, out io.Writer) error {
	if len(args) != 1 && len(args) != 2 {
		return errors.New("get: expected a URL and, if there is to be one, the file of a token")
	}
	request, err := http.NewRequest(http.MethodGet, args[0], nil)
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	if len(args) == 2 {
		token, err := os.ReadFile(args[1])
		if err != nil {
			return fmt.Errorf("get: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	_, err = fmt.Fprintf(out, "%d %s\n", response.StatusCode, body)
	return err
}
