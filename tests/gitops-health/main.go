// Command gitops-health reads a Kubernetes List as JSON from standard input and prints, for each item, the health that a
// GitOps tool would report: name, status and message, tab-separated.
//
//	gitops-health                 as Flux does, with the kstatus library
//	gitops-health --lua FILE      as Argo CD does, with a Lua script in the interpreter that Argo CD uses
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

func main() {
	script := flag.String("lua", "", "path of an Argo CD health script")
	flag.Parse()
	if err := run(*script); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(script string) error {
	var list unstructured.UnstructuredList
	if err := json.NewDecoder(os.Stdin).Decode(&list); err != nil {
		return fmt.Errorf("reading the list: %w", err)
	}
	for i := range list.Items {
		item := &list.Items[i]
		health, message, err := computeHealth(item, script)
		if err != nil {
			return fmt.Errorf("%s: %w", item.GetName(), err)
		}
		fmt.Printf("%s\t%s\t%s\n", item.GetName(), health, message)
	}
	return nil
}

func computeHealth(item *unstructured.Unstructured, script string) (health, message string, err error) {
	if script == "" {
		result, err := status.Compute(item)
		if err != nil {
			return "", "", err
		}
		return result.Status.String(), result.Message, nil
	}
	state := lua.NewState()
	defer state.Close()
	state.SetGlobal("obj", toLua(state, item.Object))
	if err := state.DoFile(script); err != nil {
		return "", "", err
	}
	answer, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", "", fmt.Errorf("the script returned a %s instead of a table", state.Get(-1).Type())
	}
	return answer.RawGetString("status").String(), answer.RawGetString("message").String(), nil
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case map[string]any:
		table := state.NewTable()
		for key, field := range value {
			table.RawSetString(key, toLua(state, field))
		}
		return table
	case []any:
		table := state.NewTable()
		for _, element := range value {
			table.Append(toLua(state, element))
		}
		return table
	case string:
		return lua.LString(value)
	case bool:
		return lua.LBool(value)
	case int64:
		return lua.LNumber(value)
	case float64:
		return lua.LNumber(value)
	default:
		return lua.LNil
	}
}
