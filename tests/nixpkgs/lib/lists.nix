# Functions on lists.
{ lib }:
let
  inherit (builtins) foldl' genList elemAt length elem listToAttrs;
in
rec {
  inherit (builtins) head tail length elem elemAt filter map concatLists concatMap foldl' all any sort partition
    genList groupBy isList;

  singleton = x: [ x ];
  forEach = xs: f: map f xs;
  foldr = op: nul: list:
    let
      n = length list;
      go = i: if i == n then nul else op (elemAt list i) (go (i + 1));
    in
    go 0;
  fold = foldr;
  foldl = op: nul: list: builtins.foldl' op nul list;
  imap0 = f: list: genList (i: f i (elemAt list i)) (length list);
  imap1 = f: list: genList (i: f (i + 1) (elemAt list i)) (length list);
  ifilter0 = keep: list: map (elemAt list) (filter (i: keep i (elemAt list i)) (range 0 (length list - 1)));
  remove = x: filter (y: y != x);
  optional = condition: x: if condition then [ x ] else [ ];
  optionals = condition: xs: if condition then xs else [ ];
  toList = x: if isList x then x else [ x ];
  flatten = x: if isList x then concatMap flatten x else [ x ];
  findFirst = predicate: default: list:
    let found = filter predicate list; in if found == [ ] then default else head found;
  findFirstIndex = predicate: default: list:
    let found = filter (i: predicate (elemAt list i)) (range 0 (length list - 1)); in
    if found == [ ] then default else head found;
  count = predicate: list: length (filter predicate list);
  range = first: last: if first > last then [ ] else genList (i: first + i) (last - first + 1);
  replicate = n: x: genList (_: x) n;
  reverseList = list: let n = length list; in genList (i: elemAt list (n - i - 1)) n;
  take = n: sublist 0 n;
  takeEnd = n: list: drop (lib.max 0 (length list - n)) list;
  drop = n: list: sublist n (length list) list;
  dropEnd = n: list: take (lib.max 0 (length list - n)) list;
  sublist = start: n: list:
    let
      size = length list;
      many = if start >= size then 0 else if start + n > size then size - start else n;
    in
    genList (i: elemAt list (start + i)) many;
  last = list: if list == [ ] then throw "lib.lists.last: the list is empty" else elemAt list (length list - 1);
  init = list:
    if list == [ ] then throw "lib.lists.init: the list is empty" else genList (elemAt list) (length list - 1);
  zipListsWith = f: a: b:
    genList (i: f (elemAt a i) (elemAt b i)) (lib.min (length a) (length b));
  zipLists = zipListsWith (fst: snd: { inherit fst snd; });
  crossLists = f: foldl' (fs: args: concatMap (f: map f args) fs) [ f ];
  unique = foldl' (seen: x: if elem x seen then seen else seen ++ [ x ]) [ ];
  uniqueStrings = list: builtins.attrNames (listToAttrs (map (name: { inherit name; value = null; }) list));
  allUnique = list: length (unique list) == length list;
  intersectLists = a: filter (x: elem x a);
  subtractLists = a: filter (x: !(elem x a));
  mutuallyExclusive = a: b: length a == 0 || !(any (x: elem x a) b);
  hasPrefix = prefix: list: take (length prefix) list == prefix;
  removePrefix = prefix: list:
    if hasPrefix prefix list then drop (length prefix) list
    else throw "lib.lists.removePrefix: the first list is no prefix of the second";
  naturalSort = sort lib.strings.versionOlder;
  sortOn = key: sort (a: b: key a < key b);

  # Orders a list so that everything comes after what `before x y` says must precede it (x before y).
  # Gives `{ result }` or `{ cycle, loops }`. The order is stable: without constraints it is the one given.
  toposort = before: list:
    let
      go = done: rest:
        if rest == [ ] then { result = done; }
        else
          let
            free = findFirst (x: !(any (y: y != x && before y x) rest)) null rest;
          in
          if free == null then { cycle = rest; loops = rest; }
          else go (done ++ [ free ]) (remove free rest);
    in
    go [ ] list;
}
