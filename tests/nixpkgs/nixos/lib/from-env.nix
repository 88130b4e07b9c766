# A path from an environment variable, else the default.
name: default:
let value = builtins.getEnv name; in if value == "" then default else /. + value
