"""Pure decisions: what is wished and what is found give the steps between them; nothing here touches anything."""
