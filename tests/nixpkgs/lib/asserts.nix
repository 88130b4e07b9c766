# Assertions for use with `assert`.
{ lib }:
rec {
  assertMsg = condition: message: condition || throw message;
  assertOneOf = name: value: allowed:
    assertMsg (builtins.elem value allowed)
      "${name} must be one of ${lib.generators.toPretty { multiline = false; } allowed}, but is: ${lib.generators.toPretty { } value}";
  assertEachOneOf = name: values: allowed: lib.all (value: assertOneOf name value allowed) values;
  showWarnings = warnings: value: builtins.foldl' (rest: message: lib.warn message rest) value warnings;
  checkAssertWarn = assertions: warnings: value:
    let failed = map (a: a.message) (lib.filter (a: !a.assertion) assertions); in
    if failed != [ ] then throw "\nFailed assertions:\n${lib.concatMapStringsSep "\n" (m: "- ${m}") failed}"
    else showWarnings warnings value;
}
