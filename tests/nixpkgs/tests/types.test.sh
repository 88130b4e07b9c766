# Types: what they take, what they refuse, how they merge.
value 'str, int, bool, float and null are taken' \
    '[ (of str "a") (of int 1) (of bool true) (of types.float 1.5) (of (types.nullOr int) null) ]' '["a",1,true,1.5,null]'
value 'lines are joined with line breaks' \
    '(eval [ { options.x = option types.lines; } { x = "a"; } { x = "b"; } ]).x' '"b\na"'
value 'commas are joined with commas' \
    '(eval [ { options.x = option types.commas; } { x = "a"; } { x = "b"; } ]).x' '"b,a"'
value 'either and oneOf take each of theirs' \
    '[ (of (types.either int str) "a") (of (types.oneOf [ int str bool ]) true) ]' '["a",true]'
value 'attrsOf drops members that are off' \
    '(of (attrsOf int) { a = 1; b = mkIf false 2; })' '{"a":1}'
value 'lazyAttrsOf knows names without values' \
    'builtins.attrNames (of (types.lazyAttrsOf int) { a = throw "not needed"; b = 1; })' '["a","b"]'
value 'anything merges sets deeply' \
    '(eval [ { options.x = option types.anything; } { x.a.b = 1; } { x.a.c = "d"; } ]).x' '{"a":{"b":1,"c":"d"}}'
value 'functionTo merges results' \
    '((eval [ { options.x = option (types.functionTo (listOf int)); } { x = a: [ a ]; } { x = a: [ (a + 1) ]; } ]).x) 1' '[2,1]'
value 'coercedTo makes the other type' '(of (types.coercedTo int toString str) 5)' '"5"'
value 'raw and unspecified keep values' '[ (of types.raw { a = 1; }) (of types.unspecified [ 1 ]) ]' '[{"a":1},[1]]'
value 'a package may be a store path' \
    'lib.hasSuffix "-x" "${of types.package (derivation { name = "x"; system = "none"; builder = "none"; })}"' 'true'
value 'descriptions nest' '(attrsOf (listOf (types.nullOr types.port))).description' \
    '"attribute set of list of (null or 16 bit unsigned integer; between 0 and 65535 (both inclusive))"'

refused() { fails "$1 is refused" "(of ($2) ($3))" "A definition for option \`x' is not of type \`$4'"; }
refused 'a number for a string' 'str' '5' 'string'
refused 'a string for a number' 'int' '"5"' 'signed integer'
refused 'a port above 65535' 'types.port' '65536' '16 bit unsigned integer; between 0 and 65535 (both inclusive)'
refused 'a negative unsigned number' 'types.ints.unsigned' '(-1)' 'unsigned integer, meaning >=0'
refused 'zero for a positive number' 'types.ints.positive' '0' 'positive integer, meaning >0'
refused 'an unknown word of an enum' 'types.enum [ "a" "b" ]' '"c"' 'one of "a", "b"'
refused 'a relative path' 'types.path' '"a/b"' 'absolute path'
refused 'a string that does not match' 'types.strMatching "[a-z]+"' '"A"' 'string matching the pattern [a-z]+'
refused 'a set for a list' 'listOf int' '{ }' 'list of signed integer'
refused 'a list for a set' 'attrsOf int' '[ ]' 'attribute set of signed integer'
refused 'a string for a package' 'types.package' '"bash"' 'package'
refused 'null where it is not allowed' 'bool' 'null' 'boolean'
fails 'a wrong member of a list is named by its place' '(of (listOf int) [ 1 "b" ])' "x.\"[definition 1-entry 2]\"' is not of type"
fails 'uniq takes one definition' \
    '(eval [ { options.x = option (types.uniq (listOf int)); } { x = [ 1 ]; } { x = [ 2 ]; } ]).x' "is defined multiple times while it's expected to be unique"
